"""Agents of ten turns, which send back the items of every answer in each way that agents do."""

TOOLS = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}]


def answered(client, stream, **request):
    """Who answered, and the response."""
    raw = client.responses.with_raw_response.create(model="gpt-4o", tools=TOOLS, stream=stream, **request)
    response = raw.parse()
    if stream:
        events = list(response)
        response = events[-1].response
        named = {event.item_id for event in events if hasattr(event, "item_id")}
        assert named == {item.id for item in response.output}, named
    return raw.headers["x-sim-backend"], response


def agent(client, store, stream, referred):
    request = {"store": store, "reasoning": {"effort": "low"}}
    if not store:
        request["include"] = ["reasoning.encrypted_content"]
    said = [{"role": "user", "content": "Look."}]
    homes = set()
    for _ in range(10):
        home, response = answered(client, stream, input=said, **request)
        homes.add(home)
        for item in response.output:
            said.append({"type": "item_reference", "id": item.id} if referred else item.model_dump(exclude_none=True))
            if item.type == "function_call":
                said.append({"type": "function_call_output", "call_id": item.call_id, "output": item.arguments})
    assert len(homes) == 1, homes
    return home


for sdk in [client, v1]:
    homes = set()
    for store, referred in [(True, True), (True, False), (False, False)]:
        for stream in [False, True]:
            homes.add(agent(sdk, store, stream, referred))
    print(len(homes))

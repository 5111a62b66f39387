"""What an application does with Claude, with both of Anthropic's clients."""

import anthropic

HI = [{"role": "user", "content": "Say hello."}]


def said(client):
    request = {"model": "claude-sonnet", "max_tokens": 100, "messages": HI}
    raw = client.messages.with_raw_response.create(**request)
    message = raw.parse()
    assert message.content[0].text == f"Hello from {raw.headers['x-sim-backend']}", message
    with client.messages.stream(**request) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason == "end_turn"
    assert text.startswith("Hello from ") and text.endswith("naïve"), text
    counted = client.messages.with_raw_response.count_tokens(model="claude-sonnet", messages=HI)
    assert counted.parse().input_tokens > 0, counted
    return [answer.headers["x-sim-backend"] for answer in [raw, counted]]


clients = [
    anthropic.Anthropic(base_url=f"{gateway}/anthropic", api_key="CLIENT-SECRET", max_retries=0),
    anthropic.AnthropicFoundry(base_url=f"{gateway}/anthropic/", api_key="CLIENT-SECRET", max_retries=0),
]
for client in clients:
    print(sorted({home for _ in range(4) for home in said(client)}))

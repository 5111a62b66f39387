"""Everything an application does, with both clients, on backends that are not alike."""

import openai

HI = [{"role": "user", "content": "Say hello."}]
SOUND = bytes(range(256)) * 40
LINES = b'{"custom_id": "1", "body": {"file_id": "file-1"}}\n'


def asked(raw):
    """Who answered, and what."""
    return raw.headers["x-sim-backend"], raw.parse()


def inference(client):
    chat = client.chat.completions.create(model="gpt-4o", messages=HI)
    assert chat.choices[0].message.content.startswith("Hello from "), chat
    chunks = client.chat.completions.create(model="gpt-4o", messages=HI, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("Hello from ") and text.endswith("naïve"), text
    vectors = client.embeddings.create(model="embed", input=["one", "two"]).data
    assert [len(vector.embedding) for vector in vectors] == [8, 8], vectors
    heard = client.audio.transcriptions.create(model="whisper", file=("a.wav", SOUND))
    assert heard.text.startswith("Hello from ") and "north" not in heard.text, heard
    return heard.text.rsplit(" ", 1)[1]


def responses(client):
    home, first = asked(client.responses.with_raw_response.create(model="gpt-4o", input="hi"))
    previous = first.id
    for stream in [False, True, True, False]:
        there, answer = asked(
            client.responses.with_raw_response.create(
                model="gpt-4o", input="and?", previous_response_id=previous, stream=stream
            )
        )
        if stream:
            events = list(answer)
            assert events[-1].type == "response.completed", events[-1]
            assert all(e.response.id == events[0].response.id for e in events if hasattr(e, "response"))
            answer = events[-1].response
        assert (there, answer.previous_response_id) == (home, previous), (there, answer)
        assert answer.output_text.startswith(f"Hello from {home}"), answer
        previous = answer.id
    assert client.responses.retrieve(previous).id == previous
    assert client.responses.input_items.list(previous).data[0].content[0].text == "and?"
    later = client.responses.create(model="gpt-4o", input="hi", background=True)
    assert later.status == "queued", later
    assert client.responses.retrieve(later.id).status == "completed"
    client.responses.delete(first.id)
    assert_gone(lambda: client.responses.retrieve(first.id))
    return home


def files(client):
    home, made = asked(client.files.with_raw_response.create(file=("a.jsonl", LINES), purpose="batch"))
    there, read = asked(client.files.with_raw_response.retrieve(made.id))
    assert (there, read.id, read.bytes) == (home, made.id, len(LINES)), (there, read)
    assert client.files.content(made.id).read() == LINES
    for listed in client.files.list(limit=2):
        assert client.files.retrieve(listed.id).id == listed.id
    batch = client.batches.create(
        input_file_id=made.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.input_file_id == made.id, batch
    batch = client.batches.retrieve(batch.id)
    assert f"Hello from {home}".encode() in client.files.content(batch.output_file_id).read()
    assert client.files.delete(made.id).deleted
    assert_gone(lambda: client.files.retrieve(made.id))
    return home


def assert_gone(read):
    try:
        read()
    except openai.NotFoundError as error:
        assert error.response.headers["x-sim-backend"], error
    else:
        raise AssertionError("it is still there")


for name, sdk in [("azure", client), ("v1", v1)]:
    homes = [set(), set()]
    for _ in range(3):
        digest = inference(sdk)
        homes[0].add(responses(sdk))
        homes[1].add(files(sdk))
    print(name, digest, *(len(home) > 1 for home in homes))

"""A client over its limit, as the SDKs of OpenAI and Anthropic tell it, and as they wait by themselves."""

import time

import anthropic
import openai

header = {"x-client": "team-sdk"}
messages = [{"role": "user", "content": "hi"}]


def chat(client):
    return client.chat.completions.create(model="gpt-4o", messages=messages, extra_headers=header)


for stand in (client, v1):
    try:
        while True:
            chat(stand)
    except openai.RateLimitError as error:
        print(type(error).__name__, error.code, error.type, "team-sdk" in error.message)
        print(int(error.response.headers["retry-after-ms"]) > 0, error.response.headers["x-ratelimit-limit-requests"])

claude = anthropic.Anthropic(base_url=f"{gateway}/anthropic", api_key="CLIENT-SECRET", max_retries=0)
while True:
    try:
        claude.messages.create(model="claude-sonnet", max_tokens=1, messages=messages, extra_headers=header)
    except anthropic.RateLimitError as error:
        print(type(error).__name__, error.body["error"]["type"], "team-sdk" in error.body["error"]["message"])
        break
    except anthropic.APIStatusError:
        # It came through, and the backend has no such model.
        pass

waits = []
while not waits:
    try:
        chat(v1)
    except openai.RateLimitError as error:
        waits.append(int(error.response.headers["retry-after-ms"]) / 1000)
began = time.monotonic()
print(chat(v1.with_options(max_retries=2)).choices[0].message.content is not None)
# It may have begun somewhat later than it was told.
print(time.monotonic() - began > waits[0] - 1)

# The day is used up: it makes no sense to wait.
header = {"x-client": "team-day"}
chat(v1)
began = time.monotonic()
try:
    chat(v1.with_options(max_retries=5))
except openai.RateLimitError as error:
    # Five retries would take longer by themselves.
    print(error.response.headers["x-should-retry"], time.monotonic() - began < 3)

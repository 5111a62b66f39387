"""Refusals as Anthropic's client tells them: first those of the backends, then the gateway's own."""

import anthropic

claude = anthropic.Anthropic(base_url=f"{gateway}/anthropic", api_key="CLIENT-SECRET", max_retries=0)
for _ in range(5):
    try:
        claude.messages.create(model="claude-sonnet", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
    except anthropic.RateLimitError as error:
        print(error.body["error"]["type"])

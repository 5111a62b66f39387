from openai import AzureOpenAI

client = AzureOpenAI(
    azure_endpoint="{url}",
    api_key="{key}",  # the balancer removes the key and sends its own access token
    api_version="2024-10-21",
)
messages = [{"role": "user", "content": "Say hello."}]

chat = client.chat.completions.create(model="gpt-4o", messages=messages)
print("chat:      ", chat.choices[0].message.content)

print("stream:    ", end=" ")
for chunk in client.chat.completions.create(model="gpt-4o", messages=messages, stream=True):
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()

vectors = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"]).data
print("embeddings:", len(vectors), "vectors of", len(vectors[0].embedding), "numbers")

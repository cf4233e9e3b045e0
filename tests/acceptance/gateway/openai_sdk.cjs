// OpenAI's Node SDK, unchanged, against the door; prints what it was given as JSON.
//     NODE_PATH=... node openai_sdk.cjs URL KEY SMALL_KEY
const OpenAI = require("openai");
const { toFile } = OpenAI;

const [url, key, smallKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const hello = { model: "tiny", messages: [{ role: "user", content: "Who goes first?" }] };
const weather = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: {} } } },
};

async function refusal(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code };
  }
}

async function chat() {
  const { data, request_id } = await client.chat.completions
    .create({ ...hello, max_tokens: 5 })
    .withResponse();
  return { text: data.choices[0].message.content, tier: data.service_tier, request_id };
}

async function stream() {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await client.chat.completions.create({ ...hello, max_tokens: 4, ...options });
  let text = "";
  let usage = null;
  for await (const chunk of chunks) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, made: usage.completion_tokens };
}

async function leave() {
  const script = { gap_s: 0.05 };
  const chunks = await client.chat.completions.create({
    ...hello, max_tokens: 200, stream: true, script,
  });
  let read = 0;
  for await (const chunk of chunks) {
    if (chunk.choices[0]?.delta?.content && ++read === 3) break; // aborts the request
  }
  return { read };
}

async function tools() {
  const script = { tool: true };
  const said = await client.chat.completions.create({ ...hello, tools: [weather], script });
  const call = said.choices[0].message.tool_calls[0].function;
  return { name: call.name, arguments: JSON.parse(call.arguments) };
}

async function embeddings() {
  const options = { encoding_format: "float" };
  const found = await client.embeddings.create({ model: "tiny", input: ["a", "b"], ...options });
  return found.data.map((row) => row.embedding);
}

async function errors() {
  const nobody = new OpenAI({ baseURL: `${url}/v1`, apiKey: "hg-nobody", maxRetries: 0 });
  const small = new OpenAI({ baseURL: `${url}/v1`, apiKey: smallKey, maxRetries: 0 });
  const create = (by, more) => by.chat.completions.create({ ...hello, ...more });
  const limited = async () => {
    for (let turn = 0; turn < 4; turn++) await create(small, {});
  };
  return {
    model: await refusal(() => create(client, { model: "huge" })),
    key: await refusal(() => create(nobody, {})),
    body: await refusal(() => create(client, { service_tier: "golden" })),
    limit: await refusal(limited),
  };
}

async function retries() {
  const patient = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 2 });
  const script = { status: 500, error: { message: "once" }, once: "node" };
  const said = await patient.chat.completions.create({ ...hello, max_tokens: 2, script });
  return { made: said.usage.completion_tokens };
}

async function batch() {
  const line = JSON.stringify({
    custom_id: "one", method: "POST", url: "/v1/chat/completions", body: { ...hello, max_tokens: 2 },
  });
  const file = await client.files.create({
    file: await toFile(Buffer.from(`${line}\n`), "in.jsonl"),
    purpose: "batch",
  });
  let batch = await client.batches.create({
    input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
  });
  for (let turn = 0; turn < 200 && batch.status !== "completed"; turn++) {
    await new Promise((wake) => setTimeout(wake, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  const output = await (await client.files.content(batch.output_file_id)).text();
  return { status: batch.status, custom_id: JSON.parse(output.trim()).custom_id };
}

async function main() {
  const given = {};
  for (const work of [chat, stream, leave, tools, embeddings, errors, retries, batch]) {
    given[work.name] = await work();
  }
  given.models = (await client.models.list()).data.map((model) => model.id);
  console.log(JSON.stringify(given));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

// The memory calculator. The formulas are those of minillm/engine/memory.py and estimate.py; tests/docs/test_calculator.py holds both together.
"use strict";

// From each checkpoint's config.json.
const PRESETS = {
  "nano-llama (bundled)": shape(8, 256, 768, 8, 4, 64, 4096, 2048, { model: "nano-llama", tied: true }),
  "nano-moe (bundled)": shape(6, 256, 512, 8, 4, 64, 4096, 2048, { model: "nano-moe", tied: true, qkNorm: true, experts: [8, 2, 256] }),
  "SmolLM2-135M": shape(30, 576, 1536, 9, 3, 64, 49152, 8192, { model: "HuggingFaceTB/SmolLM2-135M-Instruct", tied: true }),
  "Qwen2.5-0.5B": shape(24, 896, 4864, 14, 2, 64, 151936, 32768, { model: "Qwen/Qwen2.5-0.5B-Instruct", tied: true, bias: "qkv" }),
  "Qwen3-0.6B": shape(28, 1024, 3072, 16, 8, 128, 151936, 40960, { model: "Qwen/Qwen3-0.6B", tied: true, qkNorm: true }),
  "TinyLlama-1.1B": shape(22, 2048, 5632, 32, 4, 64, 32000, 2048, { model: "TinyLlama/TinyLlama-1.1B-Chat-v1.0" }),
  "Llama-3.2-1B": shape(16, 2048, 8192, 32, 8, 64, 128256, 131072, { model: "meta-llama/Llama-3.2-1B-Instruct", tied: true }),
  "Llama-3.2-3B": shape(28, 3072, 8192, 24, 8, 128, 128256, 131072, { model: "meta-llama/Llama-3.2-3B-Instruct", tied: true }),
  "Llama-2-7B": shape(32, 4096, 11008, 32, 32, 128, 32000, 4096, { model: "meta-llama/Llama-2-7b-chat-hf" }),
  "Qwen3-8B": shape(36, 4096, 12288, 32, 8, 128, 151936, 40960, { model: "Qwen/Qwen3-8B", qkNorm: true }),
  "Llama-3.1-8B": shape(32, 4096, 14336, 32, 8, 128, 128256, 131072, { model: "meta-llama/Llama-3.1-8B-Instruct" }),
  "Qwen3-30B-A3B": shape(48, 2048, 6144, 32, 4, 128, 151936, 40960, { model: "Qwen/Qwen3-30B-A3B", qkNorm: true, experts: [128, 8, 768] }),
  "Mixtral-8x7B": shape(32, 4096, 14336, 32, 8, 128, 32000, 32768, { model: "mistralai/Mixtral-8x7B-Instruct-v0.1", experts: [8, 2, 14336] }),
  "Llama-3.1-70B": shape(80, 8192, 28672, 64, 8, 128, 128256, 131072, { model: "meta-llama/Llama-3.1-70B-Instruct" }),
};
const BYTES = { float32: 4, bfloat16: 2, float16: 2 };
const WHOLE = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
  "num_experts", "num_experts_per_tok", "moe_intermediate_size", "vocab_size", "page_size", "max_model_len", "max_num_batched_tokens", "max_num_seqs", "usual"];

// experts: how many there are in every layer, how many compute a token, and how wide each is; one is a dense model.
function shape(layers, hidden, mlp, heads, kvHeads, headDim, vocab, context, more) {
  const [experts, perToken, expertSize] = more.experts || [1, 1, mlp];
  return {
    num_experts: experts, num_experts_per_tok: perToken, moe_intermediate_size: expertSize,
    model: more.model, num_hidden_layers: layers, hidden_size: hidden, intermediate_size: mlp, num_attention_heads: heads,
    num_key_value_heads: kvHeads, head_dim: headDim, vocab_size: vocab, max_model_len: context,
    tie_word_embeddings: Boolean(more.tied), attention_bias: more.bias || "none", qk_norm: Boolean(more.qkNorm), mlp_bias: false,
  };
}

// ------------------------------------------------------------------------------------------------------ the formulas

function hasExperts(c) {
  return c.num_experts > 1;
}

// The matrices of so many experts, in all layers.
function ofExperts(c, experts) {
  return c.num_hidden_layers * experts * 3 * c.hidden_size * c.moe_intermediate_size;
}

function parameters(c) {
  const q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const bias = { none: 0, qkv: q + 2 * kv, all: q + 2 * kv + c.hidden_size }[c.attention_bias];
  const attention = c.hidden_size * (q + 2 * kv) + q * c.hidden_size + bias + (c.qk_norm ? 2 * c.head_dim : 0);
  const dense = 3 * c.hidden_size * c.intermediate_size + (c.mlp_bias ? 2 * c.intermediate_size + c.hidden_size : 0);
  const mlp = hasExperts(c) ? c.num_experts * c.hidden_size : dense; // of a mixture: the router; its experts come last
  const tables = (c.tie_word_embeddings ? 1 : 2) * c.vocab_size * c.hidden_size;
  const all = c.num_hidden_layers * (attention + mlp + 2 * c.hidden_size) + tables + c.hidden_size;
  return all + (hasExperts(c) ? ofExperts(c, c.num_experts) : 0);
}

// As minillm/engine/estimate.py counts them, for attention that reads pages where they lie. A step goes through the layers
// and then through the sampler, which need their memory one after the other.
function activations(c, size) {
  const q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const tokens = Math.min(c.max_num_batched_tokens, c.max_num_seqs * c.max_model_len);
  const chosen = 2 * c.num_experts_per_tok * c.hidden_size + 3 * c.moe_intermediate_size + c.hidden_size + 2 * c.num_experts;
  const widest = Math.max(q + 2 * kv + 2 * q, 3 * c.intermediate_size, hasExperts(c) ? chosen : 0);
  const layer = tokens * ((5 * c.hidden_size + 2 * c.head_dim) * size + Math.max(widest * size, 12 * c.hidden_size) + 24);
  const V = c.vocab_size, rows = Math.min(c.max_num_seqs, c.max_num_batched_tokens);
  const together = Math.min(rows, Math.max(Math.floor(2 ** 23 / V), 1));
  const prompt = Math.min(tokens, c.max_model_len, Math.max(Math.floor(2 ** 24 / V), 1));
  const sampling = Math.max(12 * rows * V + 45 * together * V, 17 * prompt * V);
  const turns = 2 * c.max_model_len * c.head_dim * size; // cos and sin
  return 2 ** 18 + 10 * rows * V + turns + Math.max(layer, tokens * c.hidden_size * size + sampling);
}

function plan(c) {
  const size = BYTES[c.dtype], kvSize = c.kv_dtype === "auto" ? size : Number(c.kv_dtype);
  const page_size = c.contiguous ? c.max_model_len : c.page_size;
  const p = { size, kvSize, page_size, parameters: parameters(c), activations: activations(c, size) };
  p.weights = p.parameters * size;
  p.met = hasExperts(c) ? p.parameters - ofExperts(c, c.num_experts - c.num_experts_per_tok) : p.parameters;
  p.kv_bytes = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * kvSize;
  p.page_bytes = page_size * p.kv_bytes;
  p.free = Math.trunc(c.memory * 2 ** 30);
  p.limit = Math.ceil(p.free * c.gpu_memory_utilization);
  p.left = p.limit - p.weights - p.activations;
  p.num_pages = Math.floor(Math.max(p.left, 0) / p.page_bytes);
  p.cached_tokens = p.num_pages * page_size;
  p.longest = Math.floor(p.num_pages / pagesFor(c.max_model_len, page_size));
  p.usual = Math.floor(p.num_pages / pagesFor(c.usual, page_size));
  return p;
}

function pagesFor(tokens, page_size) {
  return Math.ceil(tokens / page_size);
}

// ------------------------------------------------------------------------------------------------------- in and out

function read(form) {
  const c = {}, wrong = [];
  for (const field of form.elements) {
    if (!field.name || field.name === "preset") continue;
    if (field.type === "checkbox") c[field.name] = field.checked;
    else if (field.tagName === "SELECT") c[field.name] = field.value;
    else {
      c[field.name] = field.value.trim() === "" ? NaN : Number(field.value);
      const share = field.name === "gpu_memory_utilization", whole = WHOLE.includes(field.name);
      const good = c[field.name] > 0 && Number.isFinite(c[field.name]) && (!whole || Number.isSafeInteger(c[field.name])) &&
        (!share || c[field.name] <= 1) && (whole || share || c[field.name] <= 2 ** 20);
      if (!good) wrong.push(`${labelOf(field)}: ${share ? "a share, above 0 and at most 1" : whole ? "a whole number of at least 1" : "a size above 0"}`);
      field.setAttribute("aria-invalid", String(!good));
    }
  }
  if (!wrong.length && c.num_attention_heads % c.num_key_value_heads)
    wrong.push(`${c.num_attention_heads} query heads cannot share ${c.num_key_value_heads} key/value heads evenly`);
  if (!wrong.length && c.num_experts_per_tok > c.num_experts)
    wrong.push(`a token cannot have ${c.num_experts_per_tok} of ${c.num_experts} experts`);
  if (!wrong.length && c.head_dim % 2) wrong.push("Head size: rotary positions turn pairs of numbers, so it must be even");
  c.usual = Math.min(c.usual, c.max_model_len); // no request is longer
  return [c, wrong];
}

function labelOf(field) {
  return field.closest("label").firstChild.textContent.trim();
}

// A size for people, as minillm.worker.device.show_bytes writes it: exact halves go to the even digit, as in Python.
function showBytes(count) {
  const [unit, name, digits] = Math.abs(count) >= 2 ** 27 ? [2 ** 30, "GiB", 2] : Math.abs(count) >= 2 ** 20 ? [2 ** 20, "MiB", 1] : [2 ** 10, "KiB", 1];
  const ten = 10n ** BigInt(digits), scaled = BigInt(Math.abs(count)) * ten, whole = BigInt(unit);
  let quotient = scaled / whole;
  const twice = 2n * (scaled % whole);
  if (twice > whole || (twice === whole && quotient % 2n === 1n)) quotient += 1n;
  return `${count < 0 ? "-" : ""}${quotient / ten}.${String(quotient % ten).padStart(digits, "0")} ${name}`;
}

function n(count) {
  return count.toLocaleString("en-US");
}

function rows(c, p) {
  const size = p.kvSize, kv = `2 * ${c.num_hidden_layers} * ${c.num_key_value_heads} * ${c.head_dim} * ${size}`;
  return [
    ["parameters", "parameters", c.tie_word_embeddings ? "a tied table counts once" : "", n(p.parameters)],
    ...(hasExperts(c) ? [["met", "a token meets", `all but the experts it is not given: ${c.num_experts_per_tok} of ${c.num_experts} compute it`, n(p.met)]] : []),
    ["weights", "weights", `parameters * ${p.size} bytes`, showBytes(p.weights)],
    ["kv", "KV of a token", `2 * L * Hkv * D * bytes = ${kv} = ${n(p.kv_bytes)} bytes`, showBytes(p.kv_bytes)],
    ["page", "a page", `${n(p.page_size)} tokens * ${n(p.kv_bytes)} bytes = ${n(p.page_bytes)} bytes`, showBytes(p.page_bytes)],
    ["activations", "activations", `a step of ${c.max_num_batched_tokens} tokens, ${c.max_num_seqs} rows of logits`, showBytes(p.activations)],
    ["limit", "to use", `${showBytes(p.free)} * ${c.gpu_memory_utilization}`, showBytes(p.limit)],
    ["left", "left for KV", "to use - weights - activations", showBytes(p.left)],
    ["pages", "pages that fit", "left for KV / a page", n(p.num_pages)],
    ["tokens", "tokens that fit", `pages * ${n(p.page_size)}`, n(p.cached_tokens)],
    ["longest", "longest requests", `at once, of ${n(c.max_model_len)} tokens: ${n(pagesFor(c.max_model_len, p.page_size))} pages each`, n(p.longest)],
    ["usual", "usual requests", `at once, of ${n(c.usual)} tokens: ${n(pagesFor(c.usual, p.page_size))} pages each`, n(p.usual)],
  ];
}

function verdict(c, p) {
  if (p.left < 0) return `It does not fit: ${showBytes(-p.left)} are lacking for weights and activations alone.`;
  if (p.longest < 1) return `Not even one request of the whole context fits; a context limit of at most ${n(p.cached_tokens)} does.`;
  const most = Math.min(p.usual, c.max_num_seqs);
  return `It fits. ${n(most)} usual requests can run at once` + (p.usual > c.max_num_seqs ? ": more have room, but that is the most that may run." : ".");
}

function bar(p) {
  const whole = Math.max(p.free, p.weights + p.activations), kv = p.num_pages * p.page_bytes;
  const parts = [["weights", p.weights], ["activations", p.activations], ["kv", kv], ["spare", whole - p.weights - p.activations - kv]];
  const names = { weights: "weights", activations: "activations", kv: "KV cache", spare: "not used" };
  const box = element("div", "bar"), key = element("div", "bar-key");
  for (const [name, bytes] of parts) {
    const part = element("span", name);
    part.style.width = `${100 * bytes / whole}%`;
    box.append(part);
    const said = element("span", "item");
    said.append(element("i", name), ` ${names[name]} ${(100 * bytes / whole).toFixed(bytes / whole < 0.1 ? 1 : 0)}%`);
    key.append(said);
  }
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", key.textContent.trim());
  return [box, key];
}

function command(form, c) {
  const preset = PRESETS[form.elements.preset.value];
  if (!preset || c.kv_dtype !== "auto") return null;
  const page = c.contiguous ? "max_model_len" : c.page_size;
  return `python -m minillm memory ${preset.model} --available ${c.memory}GiB --dtype ${c.dtype} --max-model-len ${c.max_model_len} ` +
    `--page-size ${page} --max-num-seqs ${c.max_num_seqs} --max-num-batched-tokens ${c.max_num_batched_tokens} ` +
    `--gpu-memory-utilization ${c.gpu_memory_utilization}`;
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function show(form, answer) {
  const [c, wrong] = read(form);
  answer.replaceChildren();
  if (wrong.length) {
    const list = element("ul", "wrong");
    wrong.forEach((text) => list.append(element("li", "", text)));
    answer.append(list);
    return;
  }
  const p = plan(c);
  const box = element("div", "table"), table = element("table", "plan"), body = element("tbody");
  for (const [key, what, how, much] of rows(c, p)) {
    const row = element("tr");
    row.dataset.row = key;
    row.append(element("th", "", what), element("td", "much", much), element("td", "how", how));
    body.append(row);
  }
  table.append(body);
  box.append(table);
  answer.append(element("p", "verdict", verdict(c, p)), ...bar(p), box);
  const line = command(form, c);
  if (line) answer.append(element("p", "", "The same from the command line:"), element("pre", "command", line));
}

function fill(form) {
  const preset = PRESETS[form.elements.preset.value];
  if (!preset) return;
  for (const [name, value] of Object.entries(preset)) {
    const field = form.elements[name];
    if (field && field.type === "checkbox") field.checked = value;
    else if (field) field.value = value;
  }
}

function start() {
  const form = document.getElementById("calculator"), answer = document.getElementById("answer");
  if (!form) return;
  const choice = form.elements.preset, own = "a model of your own";
  for (const name of [...Object.keys(PRESETS), own]) choice.append(new Option(name, name));
  choice.value = "Llama-3.2-1B";
  fill(form);
  const shapes = Object.keys(PRESETS[choice.value]).filter((name) => name !== "max_model_len");
  form.addEventListener("input", (event) => {
    if (event.target === choice) fill(form);
    else if (shapes.includes(event.target.name)) choice.value = own;
    show(form, answer);
  });
  show(form, answer);
}

start();

"""The first walk through the engine with a debugger: its parts, and what one should be able to say after it."""

STAGES = {  # the probe that opens it -> what this part of the walk is about
    "engine.config": "What was asked for, and what it means here",
    "model.built": "The model's structure, on no memory yet",
    "weights.tensor": "Weights are read, and go to their places",
    "weights.process": "Weights take the layout that multiplies fastest",
    "memory.plan": "What fits: weights, activations, pages",
    "kv.create": "The cache, and who reads it",
    "request.add": "A request arrives, waits, is admitted, gets pages",
    "batch.build": "The step is computed, from token ids to logits",
    "sampler.logits": "A token is chosen",
    "scheduler.commit": "The step is booked; a request may end and give its pages back",
    "request.text": "Tokens become text",
}
CHECKLIST: dict[str, list[tuple[str, str, str]]] = {
    # What it is about: where to stop, what to type there, and what one should then be able to say.
    "Model": [
        (
            "engine.config",
            "self.model_config",
            "how many layers, query heads, key/value heads, and how large a head is",
        ),
        ("engine.config", "setup.reasons", "what `auto` became, and why"),
        ("model.built", "model", "which modules a layer consists of, and which of them hold numbers"),
        (
            "model.built",
            "sum(p.numel() for p in model.parameters())",
            "how many parameters there are, and that none has memory yet",
        ),
    ],
    "Quantisation": [
        (
            "model.built",
            '{m.format.name for m in model.modules() if hasattr(m, "format")}',
            "how the checkpoint holds its linear layers: dense, or which quantised format",
        ),
        (
            "weights.process",
            "[(n, list(p.shape), p.dtype) for n, p in self.named_parameters()]",
            "a layer's tensors, before; one line on, after: what was sorted, repacked or permuted",
        ),
    ],
    "Weights": [
        (
            "weights.tensor",
            "self.name, self.part, list(tensor.shape), list(self.parameter.shape)",
            "which tensor of the checkpoint goes where, and which ones share a parameter",
        ),
        ("weights.tensor", "tensor.dtype, self.parameter.dtype", "whether a number changes its type on the way"),
        ("memory.plan", "plan.weights / 2**20", "how many MiB they take, of how many that there are"),
    ],
    "Pages and one request": [
        (
            "memory.plan",
            "plan.page_bytes // plan.page_size",
            "bytes a token takes in the cache, and the formula behind it",
        ),
        ("kv.create", "list(cache.tensor.shape)", "what each dimension of the cache's tensor is"),
        ("kv.allocate", "request.pages", "which pages the request holds, and where token 20 of it lies"),
        ("batch.build", "batch.slots", "where each of the step's tokens goes: page * page_size + offset"),
    ],
}

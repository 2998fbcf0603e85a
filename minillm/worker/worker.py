"""Worker: one rank and its device. It builds and loads its part of the model, finds out how large a cache fits, makes
it, and computes steps. It knows requests by their seats alone."""

from torch import nn

from minillm.kvcache.storage import KVCache
from minillm.models.weights import build_model, load_weights
from minillm.openmp import warn_of_spinning
from minillm.probe import probe
from minillm.scheduler.plan import StepPlan
from minillm.setup import Setup
from minillm.worker.device import DeviceMemory, room_for
from minillm.worker.memory import LOWER, MemoryPlan, measures, plan_memory, refuse_the_impossible
from minillm.worker.platform import Platform
from minillm.worker.runner import ModelRunner
from minillm.worker.step import Launched
from minillm.worker.stream import CpuStream, Queued
from minillm.worker.trial import Trial


class Worker:
    """Born in three steps, between which an executor may ask several ranks: structure and weights (`__init__`), how
    many pages fit (`plan_memory`), cache and recorded steps (`make_cache`). Then it launches plans.

    eager: why decode steps are not replayed, if they are not; known once there is a cache.
    """

    runner: ModelRunner
    eager: str | None

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        warn_of_spinning(setup.device)
        self.before = DeviceMemory.look(setup.device)
        self.platform = Platform(setup)
        self.model = self._make_model()
        self._trial = Trial(setup, self.platform, self.model, self.before)
        self._measured = measures(setup, self.before)

    def _make_model(self) -> nn.Module:
        """The model's structure, on no memory yet; then its weights, unless they can never fit."""
        setup = self.setup
        model = build_model(setup.model_config, self.platform.layer_build)
        refuse_the_impossible(setup, model, self.before)
        with room_for("loading the weights", self.before, "use a smaller model or dtype, or free the device"):
            load_weights(model, setup.folder, setup.device, setup.config.load_format)
            model.make_tables(setup.max_model_len, setup.device)  # type: ignore[operator]
        return model

    def plan_memory(self) -> MemoryPlan:
        """What the weights leave becomes pages. On a GPU the largest step is tried first, and measured."""
        with room_for("trying the largest step", self.before, f"{LOWER}, or use a smaller model"):
            return plan_memory(self.setup, self.model, self.before, self._trial.measure if self._measured else None)

    def make_cache(self, num_pages: int) -> None:
        """The KV cache, who works with it, recorded steps, and a first run of all of it."""
        setup, before = self.setup, self.before
        with room_for("making the KV cache", before, "lower gpu_memory_utilization, or say num_pages"):
            cache = KVCache(self.platform.attention.kv, num_pages, setup.page_size, setup.device)
        probe.on and probe("kv.create", cache=cache)
        backend = self.platform.attention_for(cache)
        self.runner = ModelRunner(setup, self.platform, self.model, cache, backend)
        self.eager = self.platform.why_eager(self.model, backend)
        probe.on and probe("graph.choose", eager=self.eager, config=setup.config, backend=backend)
        if self.eager is None:
            with room_for("recording CUDA graphs", before, f"{LOWER}, or set enforce_eager=True"):
                self.runner.record_graphs()
        if self._measured:
            with room_for("warming up", before, f"lower gpu_memory_utilization, or {LOWER}"):
                self._trial.warm_up(backend)
                self.runner.sampling.reserve()  # in the room that the trial's rows have left
        # A launch on a GPU returns at once by itself. On a CPU the launch is the work, so a thread does it.
        ahead = setup.async_scheduling and setup.device.type == "cpu"
        self.device: ModelRunner | CpuStream = CpuStream(self.runner) if ahead else self.runner

    def launch(self, plan: StepPlan) -> Launched | Queued:
        """Set the device to work on a plan; what comes back is read when its tokens are wanted."""
        return self.device.launch(plan)

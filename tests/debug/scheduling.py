"""A program for the debugger's tests to stop in: the real scheduler and page pool. Without a model, it starts at once.

Three requests of 6 tokens each share 5 pages of 4, so the third waits, and later the second is preempted.
"""

from minillm.config import EngineConfig
from minillm.debug.stops import arm_from_environment
from minillm.kvcache.manager import KVCacheManager
from minillm.probe import set_step
from minillm.request import Request, SamplingParams
from minillm.scheduler.plan import StepResult
from minillm.scheduler.scheduler import Scheduler


def main() -> None:
    arm_from_environment()
    scheduler = Scheduler(EngineConfig(max_model_len=20, page_size=4, max_num_seqs=4), KVCacheManager(5, 4))
    for i in range(3):
        scheduler.add(Request(i, prompt_ids=[1, 2, 3, 4, 5, 6], params=SamplingParams(), max_tokens=5, seed=0))
    while not scheduler.idle:
        set_step(scheduler.num_steps + 1)
        plan = scheduler.schedule()
        scheduler.commit(plan, StepResult({row.request_id: [7] for row in plan.rows if row.samples}))
    print(f"done after {scheduler.num_steps} steps and {scheduler.num_preemptions} preemptions")


if __name__ == "__main__":
    main()

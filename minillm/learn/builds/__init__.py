"""A folder a build, ``build_N``: something whole to write from a nearly empty file, which the engine then runs on.

To add build 3, add its folder; no list names it (`minillm.learn.registry` lists the folders):

- ``build.yaml``: id, title, after which lessons it comes; ``hints``, from a question to the steps; ``target``: the
  numbers that its last test wants to see reached, by name; ``mistakes``: what people write, planted in the answer.
- ``contract.py``: what is handed out as ``my/build3.py``: what must hold and what is at hand in its docstring, then the
  names that the engine calls, with bodies that raise `Todo`. ``{name}`` in it stands for a number of the target.
- ``answer.py``: one possible answer, written against the contract alone: it shows that the contract is enough.
- ``seam.py``: ``placed(load)``, a context manager in which the engine runs on the module that ``load()`` gives, the
  learner's; and ``workload(engine)``, what is raced.

Its tests are ``tests/checkpoints/test_build_3.py``. A section of ``docs/builds.md`` is about it.
"""

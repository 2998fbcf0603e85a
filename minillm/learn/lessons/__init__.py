"""A folder a lesson, ``lesson_NN``: all that belongs to that lesson alone. `minillm.learn.registry` lists the folders.

To add lesson 21, add its folder; no list names it:

- ``__init__.py``: NAME, as in ``lessons/21_NAME.py``; OFF_BEFORE: settings that keep off, in the lessons before, what
  it turns on; ONLY_MEASURE: functions of its script that tests may leave out, because they only measure.
- ``tasks.yaml``: its exercises (`minillm.learn.tasks.Task`). Hints go from a question, over where to look, to the
  steps; they do not give the line itself away.
- ``mistakes.yaml``: mistakes that people make in them (`minillm.learn.tasks.Mistake`): the tests plant each in the
  engine's own function, and a test of the exercise has to notice.
- ``questions.yaml``: what it asks with --quiz (`minillm.learn.questions.Question`); ``moments.py``: when, and where the
  answers are read; ``learner.py``: the answers as a learner works them out, for the tests.
- ``run.json``: its recorded run, written by ``scripts/record_runs.py``; ``pictures.py``: pictures of its chapter that
  are drawn from a measurement, if it has such (``scripts/pages/pictures.py``). And whatever its script draws or makes
  that no other lesson does.

The script reads like a page: it makes its `Lesson`, which prints the header, then imports what it needs, then has a
function a part, in at most 220 lines; what is measured and shown stays in it, clocks and tables go into the folder.

The script is ``lessons/21_NAME.py``, the checkpoint ``tests/checkpoints/test_21_NAME.py``, the chapter
``docs/lessons/21_NAME.md``. Four pages for readers name every lesson; a test says which of them still lacks one.
"""

"""Lesson 19: a new model.

Turned on: nothing. The engine learns an architecture that it does not know: nanochat, a Llama with a RoPE and an
activation of its own. Its config says how it is built, a class says what differs, names bring each weight to its place.
Then Hugging Face's code is the judge, and the first place where the two differ says which line is wrong.
"""

import tempfile
from pathlib import Path

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=19,
    title="A new model",
    turns_on="nothing: the same engine serves one more architecture",
    buys="any model that is a Llama with a few things changed",
    breaks="model.built,kv.store,layer.mlp",
)

from torch import nn

from minillm.debug.views.table import drawn, texts
from minillm.diagnose.closer_view import activation_points, turned_pairs
from minillm.diagnose.compare import compare
from minillm.diagnose.compare_view import draw_brief
from minillm.diagnose.doctor import examine
from minillm.layers.activation import Activation
from minillm.layers.build import LayerBuild
from minillm.learn.example import QUESTION, question
from minillm.learn.lessons.lesson_19.beside_llama import differences, places_of_layer_0, refusal
from minillm.learn.lessons.lesson_19.variant import forgotten, write_checkpoint
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM
from minillm.models.nanochat import NanoChatForCausalLM, NanoChatLayer, NanoChatMLP
from minillm.models.registry import register
from minillm.text.tokenizer import Tokenizer

NAME = "NanoChatForCausalLM"  # what config.json calls the architecture
DECODED = 12


class FirstMLP(NanoChatMLP):
    """With Llama's activation."""

    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__(config, build)
        self.activation = Activation("silu")


class FirstLayer(NanoChatLayer):
    def make_mlp(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return FirstMLP(config, build)


class FirstTry(NanoChatForCausalLM):
    """Names, shapes and norms are right. Two things are as Llama has them."""

    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return FirstLayer(config, layer, build)

    def look_up(self, positions, batch) -> None:
        LlamaForCausalLM.look_up(self, positions, batch)


class SecondTry(FirstTry):
    """Heads are turned as nanochat turns them."""

    def look_up(self, positions, batch) -> None:
        NanoChatForCausalLM.look_up(self, positions, batch)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, forgotten(NAME):
        folder = Path(name)
        with lesson.bar("writing a checkpoint with Hugging Face transformers", 1) as bar:
            write_checkpoint(folder, lesson.options.model)
            bar.move()

        lesson.part("What the config says, and what the engine answers")
        unknown(folder)

        lesson.part("Every weight by its name")
        names(folder)

        lesson.part("The first try, beside Hugging Face's model")
        first = judge(folder, FirstTry)
        which_way(first)

        lesson.part("The turn put right: the next place that differs")
        second = judge(folder, SecondTry)
        which_activation(second)

        lesson.part("The activation put right")
        third = compare_with(folder, NanoChatForCausalLM)
        tries({"the first try": first, "its turn put right": second, "its activation, too": third})

        lesson.part("Before it is served")
        before_and_after(folder)

    lesson.end(
        """See each weight find its place: [bold]--break weights.tensor --break-when '"layers.0" in target.name'[/].
        Look at [bold]self.name[/], [bold]self.part[/] and [bold]tensor.shape[/].""",
        """Stop before heads are turned: [bold]--break kv.store --break-when 'layer == 0'[/]. [bold]p q[1, 0][/], then
        [bold]n[/], then the same again: by which angle did the pair q[1, 0, 0] and q[1, 0, 8] turn?""",
        'Give FirstTry the activation "relu" in this file. Where does it differ now, and by how much?',
        """Add a model of your own: docs/add-a-model.md. [bold]python -m minillm compare FOLDER[/] finds the first place
        that differs, and [bold]--break[/] stops there.""",
    )


def unknown(folder: Path) -> None:
    """What differs from Llama and who says so; then two answers of an engine that does not know it yet."""
    lesson.say("""nanochat is a small model of Andrej Karpathy's. Here is one with random weights, 3 layers of 64
        numbers, written just now by Hugging Face's code. Beside Llama it differs in these things. Three of them stand
        in config.json, the others only in the model's code:""")
    lesson.show(differences(folder))
    lesson.say("""The engine serves nanochat; for this lesson it has forgotten how. It asks the registry which class
        builds the architecture that config.json names (architectures):""")
    lesson.show(refusal(folder))
    lesson.say("So let us try what it can: register Llama's own class for that name.")
    register(NAME)(LlamaForCausalLM)
    lesson.show(refusal(folder))
    lesson.say("""That is the first good thing about names: a model that is built wrongly does not load. Every parameter
        wants its tensor, and every tensor a place.""")


def names(folder: Path) -> None:
    """A first try of our own, and where each of the checkpoint's tensors goes in its layer 0."""
    register(NAME)(FirstTry)
    lesson.say("""A class says what is different: no gate, norms without weights, a normalised embedding. Two things it
        still has from Llama: how heads are turned, and SiLU. It is FirstTry in this file, and it registers like
        this:""")
    lesson.show(f'[bold]register("{NAME}")(FirstTry)[/]')
    lesson.say("""Its modules are called as the checkpoint calls them, so a tensor finds its parameter by name. Where we
        fuse several into one (q, k and v are one product), the part says which place in it. Layer 0:""")
    lesson.show(places_of_layer_0(folder))
    lesson.show(refusal(folder))
    lesson.say("""Every place is filled, and it will write text. That proves nothing: with random weights nobody can
        read a mistake off the words, and a trained model with such a mistake may still sound fluent.""")


def compare_with(folder: Path, model: type):
    """Register the class, and compare its engine with Hugging Face's model, over a prompt and some tokens more."""
    register(NAME)(model)
    prompt = question(Tokenizer(folder), lesson.options.prompt or QUESTION)
    with lesson.bar(f"{model.__name__} and Hugging Face's model compute the same tokens", 1) as bar:
        found = compare(str(folder), "hf", prompt[:100], decode=DECODED)
        bar.move()
    return found


def judge(folder: Path, model: type):
    """The comparison, drawn."""
    found = compare_with(folder, model)
    lesson.say(f"""Both compute the same {len(found.ours.token_ids)} tokens. {len(found.compared)} places mean the same
        on both sides, and are compared in the order in which a forward pass reaches them. A row is a layer:""")
    lesson.show(draw_brief(found, Tokenizer(folder)))
    return found


def which_way(found) -> None:
    """How far both sides turned a pair."""
    if found.first is None or not found.first.place.name.endswith("rope"):
        return
    lesson.say("""Queries agree before they are turned (q), and differ after (q rope). At position 0, where the angle is
        0, they agree. So the weights are right, and the turn is wrong. A head's numbers 0 and 8 are its first pair; as
        a point in the plane it has an angle. Layer 0, head 0, in radians:""")
    lesson.show(turned_pairs(found))
    lesson.say("""The same amount, the other way: nanochat turns heads clockwise. In config.json there is no word of it.
        The whole repair is a minus sign, in NanoChatForCausalLM.look_up:""")
    lesson.show("[bold]batch.rope = cos, -sin[/]")


def which_activation(found) -> None:
    """What both sides made of the same numbers."""
    if found.first is None or found.first.place.name != "mlp.fc2 input":
        return
    lesson.say("""All of attention agrees now. In layer 0 what goes into the activation (fc1) agrees, and what comes out
        (inner) does not. Some of the first token's numbers, from the smallest to the largest:""")
    lesson.show(activation_points(found, "mlp.fc1", "mlp.fc2 input"))
    lesson.say("Below zero, theirs is 0; above, it is x * x. That is the squared ReLU, which config.json calls relu2.")


def tries(found: dict) -> None:
    """The three beside each other."""
    *_, last = found.values()
    said = "Now every place agrees." if last.equal else "But there still is a first difference."
    lesson.say(f"""models/nanochat.py, the engine's own class, has both. [bold]{said}[/] The three beside each other,
        and how many of {DECODED + 1} tokens were those that Hugging Face's model chooses after the same text:""")
    rows = []
    for name, one in found.items():
        first, wrong = str(one.first.place) if one.first else "none", sum(not place.equal for place in one.compared)
        rows.append([name, first, f"{wrong} of {len(one.compared)}", f"{one.same_choices} of {DECODED + 1}"])
    lesson.show(drawn(texts("", "first difference", "places that differ", "tokens alike"), rows))
    lesson.say("""Each repair moves the first difference further along the forward pass. What differs behind it is no
        news: it is fed with what was wrong before.""")


def before_and_after(folder: Path) -> None:
    """The settings that can bring a model's mistakes to light, and the doctor."""
    lesson.say("""One run is not a proof. Compiled kernels and plain ones, a prompt in chunks, small pages: each goes
        another way through the engine. Against Hugging Face's model, with 20 tokens of prompt and 20 more:""")
    choices = ({}, {"kernels": "torch"}, {"max_num_batched_tokens": 5, "page_size": 3}, {"reuse_kv": False})
    rows = []
    for settings in lesson.each(choices, "comparing under each kind of settings"):
        found = compare(str(folder), "hf", list(range(40, 60)), settings, decode=20)
        worst = max(one.difference / one.limit for one in found.compared)
        said = "within 1e-4" if worst <= 1 else "too far"
        named = ", ".join(f"{name}={value}" for name, value in settings.items()) or "as it comes"
        rows.append([named, f"{len(found.compared)} {said}", f"{found.same_choices} of 21"])
    lesson.show(drawn(texts("settings", "places", "tokens alike"), rows))
    findings = examine(folder, load=True)
    wrong = [finding.name for finding in findings if finding.level == "wrong"]
    lesson.say(f"""The doctor makes {len(findings)} checks of the checkpoint and of the running model, its masks among
        them. Wrong: [good]{", ".join(wrong) or "none"}[/].""")


if __name__ == "__main__":
    lesson.run(main)

"""Fine-tune a model on chats of your own: check them, train, write a checkpoint like the published
ones, compare.

    ossia train sft data=chats.jsonl model=nano --out runs/mine
    ossia chat runs/mine/model

Four phases: `data` reads every line and says what is in it, `train` learns from it (low-rank
changes, or all weights), `export` writes `OUT/model` with the experts in MXFP4, `check` compares
its loss with that of the model before. Knows the order of things; the form of the file is
`chats/`, the numbers are `settings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ossia import hub
from ossia.batch import Batch
from ossia.checkpoint import export, find_tokenizer, gguf_file, load, open_checkpoint
from ossia.checkpoint.writer import remove_killed
from ossia.config import PRESETS, ModelConfig, account
from ossia.data.packing import Example, pack
from ossia.errors import ConfigError, TokenizerError
from ossia.files import write_json
from ossia.harmony.messages import Effort
from ossia.model import Transformer
from ossia.mxfp4 import ScaleRule
from ossia.tokenizer import Tokenizer
from ossia.train.chats.encode import Found, Reading, Turns, examples_in
from ossia.train.chats.markup import Markup
from ossia.train.chats.store import ChatExamples, Collector
from ossia.train.loop import train
from ossia.train.losses import cross_entropy
from ossia.train.overrides import flat
from ossia.train.pipeline import Phase, watchers_of
from ossia.train.run import Run
from ossia.train.settings import Balance, Device, Hyperparameters, Lora, Parallel
from ossia.train.weights.adapter import load_adapter
from ossia.train.weights.export import load_weights
from ossia.train.weights.merge import merge
from ossia.train.weights.quantization import set_fake_quantize

Settings = dict[str, Any]
TRAIN = "train.safetensors"
HELD_OUT = "held_out.safetensors"
ROUNDING = 0.1  # share of what was gained; if more is lost by rounding to MXFP4, the user is told
# settings that runs of earlier versions do not name, and what these did
SINCE = {"markup": "keep", "documents": False}
JUDGED = 200  # examples that losses are compared on where none are held out
HYPER = Hyperparameters(
    tokens_per_step=4096,
    longest=2048,
    peak_lr=5e-3,
    warmup=10,
    decay=1.0,
    weight_decay=0.0,
    optimizer="adamw",
    balance=Balance("none", router_z=0.0),
)


@dataclass(frozen=True)
class Config:
    """What `key=value` can set. `data` must be given."""

    data: tuple[Path, ...] = ()  # files with a chat a line, commas between them
    model: str = "nano"  # to start from: nano, gpt-oss-20b, a folder, or a Hugging Face id
    # low-rank changes, or every weight (which takes 16 bytes of memory each)
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()  # noqa: RUF009 - frozen
    markup: Markup = "stop"  # in texts, such as <think> and <|end|>: what it means, or as text
    documents: bool = False  # learn lines {"text": ...} that are no conversation whole
    turns: Turns = "all"  # learn every turn, or the last of each conversation
    effort: Effort = Effort.MEDIUM  # reasoning effort of chats that do not say
    date: str | None = None  # that system messages name
    held_out: float = 0.05  # share of the conversations that are not trained on, to compare losses
    skip_bad: int = 0  # lines that may be left out because they cannot be read
    epochs: float = 3.0
    steps: int | None = None  # instead of epochs
    quantize: bool = False  # train the experts as the MXFP4 values that will be stored; slower
    rule: ScaleRule = "rceil"  # for the scales of MXFP4
    layout: Literal["hf", "original", "hf-bf16"] = "hf"  # of the checkpoint that is written
    hyper: Hyperparameters = HYPER
    parallel: Parallel | None = None  # processes, under torchrun
    device: Device = "auto"  # to train on; auto: a GPU where there is one

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out must be at least 0 and less than 1, found {self.held_out}")
        steps = 1 if self.steps is None else self.steps
        if not 0 < self.epochs < math.inf or steps < 1 or self.skip_bad < 0:
            raise ConfigError("epochs must be more than 0, steps 1 or more, skip_bad 0 or more")
        check_changes(self)

    @property
    def reading(self) -> Reading:
        return Reading(
            turns=self.turns,
            effort=self.effort,
            date=self.date,
            longest=self.hyper.longest,
            held_out=self.held_out,
            markup=self.markup,
            documents=self.documents,
        )

    @property
    def changes(self) -> Lora | None:
        """None: every weight is trained."""
        return self.lora if self.method == "lora" else None


class Trained(Protocol):
    """What of a recipe's Config says how its model was trained, and is to be written."""

    @property
    def model(self) -> str: ...
    @property
    def method(self) -> Literal["lora", "full"]: ...
    @property
    def lora(self) -> Lora: ...
    @property
    def quantize(self) -> bool: ...
    @property
    def rule(self) -> ScaleRule: ...
    @property
    def layout(self) -> Literal["hf", "original", "hf-bf16"]: ...
    @property
    def hyper(self) -> Hyperparameters: ...


def check_changes(config: Trained) -> None:
    """Raises `ConfigError` for settings that others leave without effect."""
    is_full = config.method == "full"
    if is_full and config.lora != Lora():
        raise ConfigError(
            "lora.* has no effect on method=full, which trains every weight: set method=lora, or "
            "leave lora.* out"
        )
    if config.quantize and config.layout == "hf-bf16":
        raise ConfigError(
            "quantize trains for MXFP4, which layout=hf-bf16 does not store: choose one of them"
        )
    if config.quantize and not is_full and not config.lora.experts:
        raise ConfigError(
            "quantize trains the experts, which lora.experts=false keeps as they are: choose one"
        )


def phases(config: Config, out: Path) -> list[Phase]:
    """What there is to do. Raises `ConfigError` if no data is given, `ModelNotFoundError` if there
    is no such model.
    """
    if not config.data:
        raise ConfigError(
            "say what to learn from: data=FILE, one chat a line (docs/fine-tuning.md shows the "
            "form)"
        )
    for path in config.data:
        if path.is_dir():
            raise ConfigError(f"data={path} is a folder: name the files in it, commas between them")
    shape = config_of(config.model)
    read, trained, written = _settings(config)
    size = sum(path.stat().st_size for path in config.data if path.exists())
    tokens = round(size / 4 * config.epochs)  # 4 bytes a token
    if config.steps:
        tokens = config.steps * config.hyper.tokens_per_step
    return [
        Phase(
            name="data",
            does="Read the chats and render them as tokens.",
            run=partial(prepare, config, out / "data"),
            settings=read,
            needs=config.data,
            look=partial(read_chats, config, Collector(), Collector()),
        ),
        Phase(
            name="train",
            does="Learn the assistant's messages.",
            run=partial(fine_tune, config, out),
            tokens=tokens,
            config=shape,
            settings=trained,
            hyper=config.hyper,
            lora=config.changes,
            together=True,
        ),
        Phase(
            name="export",
            does="Write the model as a checkpoint.",
            run=partial(write_model, config, out),
            settings=written,
            disk=stored_bytes(shape, config.layout),
        ),
        Phase(
            name="check",
            does="Compare losses before and after.",
            run=partial(compare, config, out),
            settings=written,
        ),
    ]


def _settings(config: Config) -> tuple[Settings, Settings, Settings]:
    """What decides the results of reading, of training, and of what follows."""
    read: Settings = {"model": config.model, "data": fingerprint(config.data)}
    for key, value in asdict(config.reading).items():
        if key not in SINCE or value != SINCE[key]:
            read[key] = str(value)
    read["skip_bad"] = config.skip_bad
    trained = {
        **read,
        "method": config.method,
        "epochs": config.epochs,
        "steps": config.steps,
        "quantize": config.quantize,
        "rule": config.rule if config.quantize else None,
        **flat(config.hyper, "hyper"),
    }
    if config.changes is not None:
        trained |= flat(config.changes, "lora")
    return read, trained, trained | {"rule": config.rule, "layout": config.layout}


# ---- phases ----


def prepare(config: Config, folder: Path) -> Found:
    """Every chat as token ids and masks in `folder`, and `found.json` with what there was."""
    train_on = Collector()
    held_out = Collector()
    found = read_chats(config, train_on, held_out)
    train_on.write(folder / TRAIN)
    held_out.write(folder / HELD_OUT)
    write_json(folder / "found.json", asdict(found), indent=2)
    print(found)
    return found


def read_chats(config: Config, train_on: Collector, held_out: Collector) -> Found:
    """Every chat into one of the two. Raises `DataError` naming the lines that cannot be read."""
    found = Found()
    tokenizer = tokenizer_for(config.model)
    read = examples_in(config.data, tokenizer, config.reading, found, config.skip_bad)
    for example, is_held_out in read:
        side = held_out if is_held_out else train_on
        side.add(example)
    return found


def fine_tune(config: Config, out: Path) -> Transformer:
    """The run, to its end or on to it."""
    run = run_of(config, out)
    return train(run, watchers=watchers_of(run))


def run_of(config: Config, out: Path) -> Run:
    """The run on the examples that `prepare` left."""
    examples = ChatExamples(out / "data" / TRAIN, config.hyper.seed)
    h = config.hyper
    base = base_folder(config.model)
    steps = config.steps
    if not steps:
        steps = examples.steps(config.epochs, h.tokens_per_step, h.longest)
    return Run(
        name="sft",
        config=open_checkpoint(base).config,
        examples=examples,
        steps=steps,
        hyper=replace(h, warmup=min(h.warmup, steps // 4)),
        out=out / "train",
        start_from=base,
        quantize=config.rule if config.quantize else False,
        lora=config.changes,
        parallel=config.parallel,
        device=config.device,
    )


def write_model(config: Trained, out: Path, place: Path | None = None) -> None:
    """`place`, or else `OUT/model`: the changes merged into the model, or the trained weights, in
    the wanted layout.
    """
    base = base_folder(config.model)
    trained = out / "train"
    place = place or out / "model"
    remove_killed(place)
    if config.method == "lora":
        print(merge(base, trained, place, config.rule, layout=config.layout, overwrite=True))
        return
    model = load_weights(open_checkpoint(base).config, trained).eval()
    home = base.parent if base.resolve().name == "original" else base
    cost = export(model, place, config.layout, rule=config.rule, overwrite=True, companions=home)
    if cost is not None:
        print(cost)


def compare(config: Config, out: Path) -> dict[str, Any]:
    """Losses on held-out chats, in `OUT/check/report.json`: of the model before, of the trained one
    as it was in training, and of the checkpoint that was written, as it is read back. Between the
    last two lies what rounding costs.
    """
    judged = ChatExamples(out / "data" / HELD_OUT)
    which = "held-out"
    most = None
    if not len(judged):
        judged = ChatExamples(out / "data" / TRAIN)
        which = "training"
        most = JUDGED
    h = config.hyper
    base = base_folder(config.model)
    models: dict[str, Callable[[], Transformer]] = {
        "before": lambda: load(base, h.precision),
        "trained": lambda: trained_model(config, base, out / "train"),
        "written": lambda: load(out / "model", h.precision),
    }
    losses: dict[str, float] = {}
    for what, model in models.items():
        chosen = islice(judged.each(), most)
        losses[what] = mean_loss(model(), chosen, h.tokens_per_step, h.longest)
    report = {"examples": which, **losses}
    (out / "check").mkdir(parents=True, exist_ok=True)
    write_json(out / "check" / "report.json", report, indent=2)
    shown = ", ".join(f"{loss:.4f} {what}" for what, loss in losses.items())
    print(f"loss on {which} chats: {shown}")
    gained = losses["before"] - losses["trained"]
    lost = losses["written"] - losses["trained"]
    if gained > 0 and lost > ROUNDING * gained:
        print(
            "MXFP4 rounds much of this away: see `What rounding costs` in docs/fine-tuning.md "
            "for what to do"
        )
    print(f"try it: ossia chat {out / 'model'}")
    return report


def trained_model(config: Trained, base: Path, folder: Path) -> Transformer:
    """What the run ended with, as it was in training."""
    if config.method == "full":
        model = load_weights(open_checkpoint(base).config, folder)
    else:
        model = load_adapter(load(base, config.hyper.precision), folder)
    set_fake_quantize(model, config.rule if config.quantize else False)
    return model.eval()


@torch.no_grad()
def mean_loss(model: Transformer, examples: Iterable[Example], tokens: int, longest: int) -> float:
    """Mean negative log-likelihood, in nats, of all tokens that the examples ask to learn."""
    total = 0.0
    count = 0
    at_once = max(longest, tokens + 1)
    for packed, _ in pack(_flushed(examples, tokens), tokens, at_once):
        targets = len(packed.rows)
        if targets:
            rows = torch.from_numpy(packed.rows)
            batch = Batch.packed(packed.lengths, output_rows=rows)
            x_RD = model.hidden(torch.from_numpy(packed.tokens), batch)
            wanted = torch.from_numpy(packed.targets)
            loss = cross_entropy(x_RD, model.unembedding.weight, wanted)
            total += float(loss) * targets
            count += targets
    return total / max(1, count)


def _flushed(examples: Iterable[Example], tokens: int) -> Iterator[tuple[Example, int]]:
    """With states, and at the end one that fits into no batch: `pack` hands one out when the next
    does not fit.
    """
    for example in examples:
        yield example, 0
    length = tokens + 2
    yield Example([0] * length, [False] * length), 0


# ---- the model to start from ----


def config_of(name: str, find: Callable[[str], Path] | None = None) -> ModelConfig:
    """The architecture, without a download where the name says it; `find`: for `base_folder`."""
    if is_preset(name):
        return ModelConfig.preset(name)
    found = (find or base_folder)(name)
    return open_checkpoint(found).config


def is_preset(name: str) -> bool:
    """Whether the name says all that a plan needs, without a download."""
    return name in PRESETS and name != "nano" and not Path(name).exists()


def tokenizer_for(name: str) -> Tokenizer:
    """The model's, without a download where the name says which it is."""
    return Tokenizer.o200k_harmony() if is_preset(name) else tokenizer_of(base_folder(name))


def stored_bytes(config: ModelConfig, layout: str) -> int:
    """About what a checkpoint takes: two bytes a parameter, or experts in MXFP4."""
    counts = account(config)
    return 2 * counts.total if layout == "hf-bf16" else counts.checkpoint_bytes


def base_folder(name: str) -> Path:
    """The checkpoint's folder. Raises `ModelNotFoundError`, or `ConfigError` for a GGUF file."""
    folder = hub.find(name)
    if gguf_file(folder) is not None:
        raise ConfigError(
            f"{name}: is a GGUF file; fine-tuning needs safetensors: "
            f"ossia convert {name} FOLDER --to hf"
        )
    return folder


def tokenizer_of(folder: Path) -> Tokenizer:
    """The checkpoint's. Raises `TokenizerError` if it has none."""
    found = find_tokenizer(folder, open_checkpoint(folder).config)
    if found is None:
        raise TokenizerError(f"{folder}: has no tokenizer.json; put the model's there")
    return found


def fingerprint(paths: Iterable[Path]) -> str:
    """A hash of the files' contents; of those that are not there, of their names."""
    digest = blake2b(digest_size=16)
    for path in paths:
        if not path.is_file():
            digest.update(str(path).encode())
            continue
        with path.open("rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()

"""Flags that several commands share, each described once: types for the command table in `synthaug.cli`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Many = Parameter(consume_multiple=True, negative="")
Switch = Parameter(negative="")

Label = Annotated[
    list[str] | None,
    Many,
    Parameter(help="A finding, or FINDING=0 for its absence. Repeated: every film has them all."),
]
Count = Annotated[int, Parameter(help="Number of films; by default 16.")]
Seed = Annotated[
    int,
    Parameter(help="A film's noise depends on the seed, by default 0, and the film's index alone."),
]
ShardSize = Annotated[int, Parameter(help="Films in a shard; by default 1000.")]
Steps = Annotated[int | None, Parameter(help="Steps of the sampler; by default the checkpoint's.")]
GuidanceScale = Annotated[float | None, Parameter(help="How strongly the prompt steers; 1 is off.")]
BatchSize = Annotated[int | None, Parameter(help="Films sampled together; by default what the device holds.")]
ImageFormat = Annotated[
    Literal["png", "jpeg", "webp"], Parameter(help="How films are stored; by default png.")
]
ImageSize = Annotated[int | None, Parameter(help="Edge in pixels; by default the checkpoint's.")]
Prompt = Annotated[str | None, Parameter(help="Free text in place of the one made from the labels.")]
NegativePrompt = Annotated[str | None, Parameter(help="What to steer away from.")]
DryRun = Annotated[bool, Switch, Parameter(help="Print the plan and what it takes, and write nothing.")]
Model = Annotated[str, Parameter(help='"embedded", a checkpoint folder or a hub id.')]
DetectorSource = Annotated[str, Parameter(help='"embedded" or a detector folder.')]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(help="Where to compute.")]
Engine = Annotated[
    Literal["local", "ray"], Parameter(help="This process, or workers on a Ray cluster: see docs/scale.md.")
]
Address = Annotated[
    str | None,
    Parameter(help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT; one is started here when left out."),
]
Workers = Annotated[
    int | None, Parameter(help="Workers to ask the cluster for; by default as many as its nodes hold.")
]
Threads = Annotated[int | None, Parameter(help="CPU threads of a worker; by default those of torch.")]
View = Annotated[Literal["PA", "AP", "lateral"] | None, Parameter(help="Projection; unknown when left out.")]
Sex = Annotated[Literal["F", "M"] | None, Parameter(help="Unknown when left out.")]
Age = Annotated[float | None, Parameter(help="Years; unknown when left out.")]
# Folders that may be URLs are text: pathlib would drop a slash.
Data = Annotated[list[str], Many, Parameter(help="Folders of films, or URLs of folders of shards.")]
Synthetic = Annotated[list[str] | None, Many, Parameter(help="Folders of synthetic films, or URLs.")]
Real = Annotated[str | None, Parameter(help="Folder of real films, or URL of a folder of shards.")]
Report = Annotated[Path, Parameter(help="Folder for results.json, results.md and report.html.")]
Findings = Annotated[
    list[str] | None, Many, Parameter(help="Findings to look at; by default all that the films can show.")
]
Arch = Annotated[str | None, Parameter(help="densenet121, vit_small_patch16_224 or any other timm name.")]
Split = Annotated[
    str | None,
    Parameter(
        help="Use this part of --splits-file, in the folders it names films of; others are used whole."
    ),
]
SplitsFile = Annotated[
    str, Parameter(help='A split by patient: a packaged name ("nih-sample") or a CSV of image,part.')
]
Recipe = Annotated[str, Parameter(help="A packaged recipe (`synthaug models` lists them) or a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    Many,
    Parameter(name="--set", help="KEY=VALUE in place of the recipe's; dotted: augmentation.rotation=5."),
]
SkipBad = Annotated[bool, Switch, Parameter(help="Leave out films that cannot be read.")]
Json = Annotated[bool, Switch, Parameter(name="--json", help="Print JSON.")]

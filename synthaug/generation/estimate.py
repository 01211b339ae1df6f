"""What a run would do and take, before it is begun."""

from dataclasses import dataclass
from pathlib import Path

from synthaug.engines import only_result
from synthaug.generation.drawing import Artist, Timing
from synthaug.generation.place import Place, fitting_execution
from synthaug.generation.plan import GenerateRecipe

# Bytes a pixel of a radiograph, encoded: for the estimate of a dry run.
BYTES_PER_PIXEL = {"png": 0.6, "jpeg": 0.25, "webp": 0.25}
BYTES_PER_RECORD = 2560


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would take, by a batch drawn on one worker: seconds and stored bytes of a film, and workers."""

    seconds_a_film: float
    bytes_a_film: float
    timed: int
    workers: int

    def in_words(self, count: int) -> str:
        """The time of so many films."""
        hours = count * self.seconds_a_film / self.workers / 3600
        return (
            f"about {hours:.2g} hours on {self.workers} worker{'s' * (self.workers != 1)}: {self.seconds_a_film:.3g} s a film, "
            f"timed on {self.timed}"
        )


def describe(recipe: GenerateRecipe, folder: str | Path, estimate: "Estimate | None" = None) -> str:
    """What a run would do, in words; the recipe is a resolved one."""
    pixels = (recipe.image_size or 0) ** 2
    stored = estimate.bytes_a_film if estimate else pixels * BYTES_PER_PIXEL[recipe.format]
    size = recipe.count * (stored + BYTES_PER_RECORD)
    lines = [f"{entry.count} films: {entry.prompt}" for entry in recipe.plan]
    lines += [
        f"{recipe.count} films of {recipe.image_size} px, {recipe.shards} shards, about {size / 1e6:.1f} MB",
        *([estimate.in_words(recipe.count)] if estimate else []),
        f"steps {recipe.num_inference_steps}, guidance scale {recipe.guidance_scale:g}, {recipe.scheduler}",
        f"checkpoint {recipe.checkpoint.name if recipe.checkpoint else '?'}",
        *(
            [f"gates {', '.join(recipe.gates.names)}: what they reject is drawn again"]
            if recipe.gates
            else []
        ),
        f"recipe {recipe.digest()}",
        f"into {folder}",
    ]
    return "\n".join(lines)


def estimate(artist: Artist, place: Place, batch_size: int | None) -> Estimate:
    """Draw one batch on one worker, and count up."""
    execution = fitting_execution(artist, place, batch_size)
    seconds, size = only_result(
        place.run(Timing(artist, execution), [execution.batch_size], execution.threads)
    )
    places = place.engine.places(execution.threads, place.device)
    workers = max(min(places, artist.recipe.shards), 1)
    return Estimate(seconds, size, execution.batch_size, workers)

"""Generation: labels -> prompts -> images -> a folder of shards that the same command resumes."""

from synthaug.generation.estimate import describe
from synthaug.generation.execution import Execution
from synthaug.generation.generate import generate, run
from synthaug.generation.plan import GenerateRecipe, PlanEntry
from synthaug.generation.progress import Progress

__all__ = ["Execution", "GenerateRecipe", "PlanEntry", "Progress", "describe", "generate", "run"]

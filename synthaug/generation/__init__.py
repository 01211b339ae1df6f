"""Generation: labels -> prompts -> images -> a folder of shards that the same command resumes."""

from synthaug.generation.execution import Execution
from synthaug.generation.generate import Progress, describe, generate, run
from synthaug.generation.plan import GenerateRecipe, PlanEntry

__all__ = ["Execution", "GenerateRecipe", "PlanEntry", "Progress", "describe", "generate", "run"]

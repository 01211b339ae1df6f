"""Where the tasks of a run are done: in this process, or by workers on a Ray cluster.

A job is opened once in each worker and then called task by task. Tasks are as large as a shard, so that an engine costs
nothing beside them; a job writes what it makes itself, and only small results come back. An engine pulls a task when
a worker is free and holds no more of them than there are workers, so that the memory of the driver, the process that
runs the engine, does not grow with the number of tasks.

A worker that dies loses its task to another one. It may not be as dead as it seems, so a task can be done twice, even at
the same time: what it writes must be whole and equal each time.
"""

from synthaug.engines.engine import (
    Done,
    Engine,
    Event,
    Job,
    Local,
    Lost,
    Moved,
    Work,
    only_result,
    open_engine,
)

__all__ = ["Done", "Engine", "Event", "Job", "Local", "Lost", "Moved", "Work", "only_result", "open_engine"]

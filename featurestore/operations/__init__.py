"""Running refreshes, audits and housekeeping on schedule, in one process or job by job; consuming topics.

Whether a job is due follows from the registry's records of earlier runs, so nothing is lost when the process ends:
after a restart it first runs, once, what fell due meanwhile. Of several processes one leads, by a lock in the registry.
The others stand by and take over when the leader ends, some seconds after it dies, or when it loses the lock.
"""

from featurestore.operations.jobs import Job, jobs_of
from featurestore.operations.runner import Runner
from featurestore.operations.triggers import CronTrigger, GridTrigger, LaterTrigger

__all__ = ["CronTrigger", "GridTrigger", "Job", "LaterTrigger", "Runner", "jobs_of"]

"""Keeping declared refreshes and audits going, in one process, or job by job.

What is due follows from the registry's records of what ran, so nothing is lost when the process ends: started again, it
first does what fell due meanwhile, once. Of several processes one leads, by a lock in the registry; the others stand by
and take over when it ends, some seconds after it dies, or when it loses the lock.
"""

from featurestore.operations.jobs import Job, jobs_of
from featurestore.operations.runner import Runner
from featurestore.operations.triggers import GridTrigger, LaterTrigger, read_crontab
from featurestore.registry import DONE, FAILED, MISSED, PLANNED, REMOVED, SKIPPED

__all__ = [
    "DONE",
    "FAILED",
    "MISSED",
    "PLANNED",
    "REMOVED",
    "SKIPPED",
    "GridTrigger",
    "Job",
    "LaterTrigger",
    "Runner",
    "jobs_of",
    "read_crontab",
]

//! The steps of a job.

"""Errors of the ground floor. They travel to boards, so they stand apart from kdedge's own."""


class RuntimeFailure(Exception):
    """A runtime cannot do what a job asks: the message names the runtime, the file or tensor, what was allowed and what to do next."""


class NotAvailable(RuntimeFailure):
    """The runtime or the hardware that it needs is not here; the job's status becomes `not-run`, not `failed`."""

"""The signals that ask a run to stop."""

import signal

# A cluster announces with one of these that a job's time is up (`sbatch --signal`); Windows has neither.
WARNINGS = tuple(signal.Signals[name] for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
STOPPING = (signal.SIGINT, signal.SIGTERM, *WARNINGS)

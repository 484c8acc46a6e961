# From a papermill log: progress and results as they come, everything from an error on, nothing else.
/ eta [0-9]| bits\/dim / { print; fflush() }
/Traceback|Exception encountered|papermill.exceptions/ { on = 1 }
on { print; fflush() }

"""Before one rents: what a run would need of devices that are not there. `nfjax plan --config=NAME --on "8 x h100"`."""

"""Training: `nfjax train --config=digits`."""

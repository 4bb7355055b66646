"""The step compose: who is shown together, cut out how, before which background."""

"""The step facts: rules of geometry for bodies and faces."""

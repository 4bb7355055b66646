"""Pictures and the people in them: decoding, batches, geometry, drawing."""

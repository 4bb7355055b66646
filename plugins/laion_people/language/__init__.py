"""Facts and claims as texts: vocabulary, sentences, the captions file, and words that captions must not have."""

"""Facts and claims as texts: vocabulary, sentences, the captions file and the words that captions may not have."""

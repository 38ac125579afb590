"""Networks that go position by position: transformers over tokens, vectors and patches."""

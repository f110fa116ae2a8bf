"""Count in other ways: more positives, merged sentences, captions by length."""

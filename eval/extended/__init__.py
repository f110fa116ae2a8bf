"""Count in other ways: parts of the images, more positives, merged sentences, captions by length."""

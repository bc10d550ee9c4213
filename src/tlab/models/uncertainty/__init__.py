"""What a classifier may say of its own answers: whether it knows such images, and which classes are possible."""

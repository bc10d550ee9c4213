"""Many heads on the same stored features: trained in one pass, and each pass carried out as runs of their own."""

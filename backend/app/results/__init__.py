"""What was read, in the formats people use: a document's pages in, files out."""

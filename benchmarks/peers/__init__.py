"""What we are measured against, each written as well as its own approach allows."""

"""What every model of the public face can, whatever its family and twin."""

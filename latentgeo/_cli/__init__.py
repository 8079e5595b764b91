"""What the commands of the command line share: where a model comes from, files of numbers, solving, tables, errors.

NumPy outside, torch inside: codes are cast to the decoder's dtype and device on their way in.
"""

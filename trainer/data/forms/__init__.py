"""The forms that data comes in: recognised by the beginning of a file, and read into a row's own terms.

    text.py         bytes -> text: gzip, UTF-16, CR          json_values.py  a JSON file's values, one by one
    recognise.py    a file -> its form, its records          sets.py         forms that records show by their keys
    record.py       a record -> pictures, exchanges, answers keys.py, values.py, talk.py   its keys, values and turns
    names.py        an image's name -> its file

Nothing here knows of rows; trainer/data/rows.py makes them of what is read.
"""

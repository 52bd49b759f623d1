"""Files restored and measured one by one: what sample.py does between its flags and its report."""

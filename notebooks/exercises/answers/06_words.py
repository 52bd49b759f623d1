token = (100, 0)  # two numbers, (clear, right)
limit = 10  # nats

print(check.words(token, limit))

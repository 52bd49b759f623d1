def count(pictures, prompts, steps, batch_size):
    calls = -(-pictures // batch_size) * steps
    latents = pictures * prompts * steps
    return calls, latents


print(check.count(backbone, count))

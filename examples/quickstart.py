import numpy as np
import torch

import elastic_compile as ec
import elastic_runtime as er


class Settle(torch.nn.Linear):
    def forward(self, x):
        rounds = 0
        while x.abs().max() > 1:
            x, rounds = super().forward(x), rounds + 1
        return {"x": x, "rounds": rounds}


torch.manual_seed(0)
program = ec.compile(Settle(4, 4).eval(), [(torch.ones(1, 4),)])
print(program.inspect())
program.save("settle.elastic")

model = er.load("settle.elastic")  # from here on, no torch
for size in (0.5, 9.0, 1000.0):
    print(f"{size:6} settles in {model(np.full((1, 4), size, np.float32))['rounds']} rounds")

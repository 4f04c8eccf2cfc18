"""Features of a frozen encoder in PyTorch, timed from opening the shard to the last vector: what `passer features` does.

    python scripts/bench/features.py PHOTOS.tar resnet50 WEIGHTS.pth [--batch 32] [--threads 2]

Writes the weights (drawn with seed 0) for Passer, computes the features, and prints one JSON object.
"""

import argparse
import io
import json
import resource
import tarfile
import time

import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Photos(Dataset):
    def __init__(self, path):
        with tarfile.open(path) as tar:
            self.places = [(m.offset_data, m.size) for m in tar if m.name.lower().endswith((".jpg", ".jpeg"))]
        normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize])
        self.path, self.file = path, None

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        self.file = self.file or open(self.path, "rb")
        offset, size = self.places[index]
        self.file.seek(offset)
        return self.transform(Image.open(io.BytesIO(self.file.read(size))).convert("RGB"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("model")
    parser.add_argument("weights")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = timm.create_model(a.model, num_classes=0).eval()
    torch.save(model.state_dict(), a.weights)
    start = time.perf_counter()
    photos = Photos(a.photos)
    with torch.inference_mode():
        rows = torch.cat([model(batch) for batch in DataLoader(photos, batch_size=a.batch, num_workers=a.threads)])
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images": len(rows), "images_per_second": len(rows) / seconds, "peak_rss_mb": round(memory, 1)}))


if __name__ == "__main__":
    main()

"""requests: a form with a file as it writes one, JSON, and what it makes of an error."""

import base64
import io
import os

import requests

service, image = os.environ["SERVICE"], os.environ["IMAGE"]
data = base64.b64decode(image.partition(",")[2])
fields = {"question": "what color is the shape?", "adapter": "shapes"}
for file in (data, io.BytesIO(data), ("shape.png", data, "image/png")):
    answer = requests.post(f"{service}/v1/vqa", data=fields, files={"image": file}, timeout=60)
    assert answer.json()["answer"] == "blue", answer.text
answer = requests.post(f"{service}/v1/vqa", json=fields | {"image": image}, timeout=60)
assert answer.json()["answer"] == "blue", answer.text
refused = requests.post(f"{service}/v1/vqa", data=fields, files={"image": b"no image"}, timeout=60)
assert 400 <= refused.status_code < 500, refused.text
assert refused.json()["error"]["message"]

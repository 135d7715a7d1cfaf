"""Several threads on one session, and futures."""

import threading

import skimage.data

import degmix_edge

photos = {name: getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea")}

with degmix_edge.load("robot.degmix") as session:
    # A session may be shared: a backend that can runs calls side by side, others take turns.
    results = {}

    def work(name: str) -> None:
        """Run one photograph."""
        results[name] = session(photos[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in photos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # A future is ready later: fetch the next frame meanwhile.
    later = {name: session.submit(photo) for name, photo in photos.items()}
    # A list of images gives a list of maps, in order.
    together = session(list(photos.values()))

for index, name in enumerate(photos):
    same = (later[name].result()["semseg"] == results[name]["semseg"]).all()
    again = (together[index]["semseg"] == results[name]["semseg"]).all()
    print(f"{name}: {results[name].latency.net_ms:.1f} ms, equal maps: {bool(same and again)}")

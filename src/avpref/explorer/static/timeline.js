// Waveform, onsets and motion of every clip under its spectrogram, on one time scale, with one playhead. A click seeks.

export function drawTimeline(timeline, player) {
  const tracks = [...timeline.querySelectorAll("[data-track]")];
  const documents = new Map();
  const scale = (duration) => `${(100 * duration) / player.duration}%`;
  for (const track of tracks) {
    for (const part of track.querySelectorAll("img, canvas")) part.style.width = scale(Number(track.dataset.duration));
  }
  const drawAll = () => tracks.forEach((track) => documents.has(track) && draw(track, documents.get(track)));
  Promise.all(
    tracks.map(async (track) => {
      const answer = await fetch(`${track.dataset.track}/curves`);
      if (answer.ok) documents.set(track, await answer.json());
      else track.querySelector("canvas").replaceWith(Object.assign(document.createElement("p"), { className: "note", textContent: "no curves: the clip cannot be read" }));
    }),
  ).then(() => {
    share(documents);
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  const playhead = timeline.querySelector(".playhead");
  const place = () => {
    const edge = tracks[0].clientLeft;
    playhead.style.left = `${edge + (player.now() / player.duration) * tracks[0].clientWidth}px`;
  };
  player.addEventListener("change", place);
  addEventListener("resize", place);
  place();
  timeline.addEventListener("click", (event) => {
    const box = tracks[0].getBoundingClientRect();
    player.seek(((event.clientX - box.left - tracks[0].clientLeft) / tracks[0].clientWidth) * player.duration);
  });
}

/** Both sides get the scale of the larger one, so that heights can be compared. */
function share(documents) {
  const highest = (values) => Math.max(1e-6, ...[...documents.values()].map((one) => Math.max(0, ...values(one))));
  const scales = {
    wave: highest((one) => one.waveform.high.concat(one.waveform.low.map((value) => -value))),
    onset: highest((one) => one.onset_strength.values),
    motion: highest((one) => one.motion.values),
  };
  for (const one of documents.values()) one.scales = scales;
}

function draw(track, data) {
  const canvas = track.querySelector("canvas");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const [width, height] = [canvas.width, canvas.height];
  const x = (time) => (time / data.duration_s) * width;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  const half = height * 0.3;
  pen.fillStyle = colour("--wave");
  data.waveform.low.forEach((low, index) => {
    const top = (1 - data.waveform.high[index] / data.scales.wave) * half;
    const bottom = (1 - low / data.scales.wave) * half;
    pen.fillRect(x(index * data.waveform.step_s), top, Math.max(1, x(data.waveform.step_s)), Math.max(1, bottom - top));
  });
  pen.strokeStyle = colour("--first");
  pen.lineWidth = 1;
  for (const onset of data.onsets_s) {
    pen.beginPath();
    pen.moveTo(x(onset), 0);
    pen.lineTo(x(onset), height);
    pen.stroke();
  }
  curve(pen, data.onset_strength, data.scales.onset, x, height, colour("--first"));
  curve(pen, data.motion, data.scales.motion, x, height, colour("--second"));
}

function curve(pen, line, highest, x, height, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.beginPath();
  line.values.forEach((value, index) => {
    const y = height - 2 - (value / highest) * height * 0.36;
    pen.lineTo(x(line.start_s + index * line.step_s), y);
  });
  pen.stroke();
}

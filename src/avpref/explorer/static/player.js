// One clip, or two in step. The clock is the audio context's: the sounds of both sides are decoded into buffers that start
// at the same sample, and the muted pictures are corrected to that clock by their speed, or by a seek when far off.

const AHEAD_S = 0.12; // sounds are scheduled this long before they are heard
const SEEK_BEYOND_S = 0.25; // a picture that is further off is sought
const STILL_S = 0.003; // a picture that is nearer is left alone
const GAIN_PER_S = 8; // change of speed per second of error
const MAX_CORRECTION = 0.6;
const FADE_S = 0.004; // time constant of the change between the two sounds

export class Player extends EventTarget {
  constructor(root) {
    super();
    this.sides = [...root.querySelectorAll("[data-side]")].map((element) => ({
      video: element.querySelector("video"),
      sound: element.dataset.sound,
      duration: Number(element.dataset.duration),
      fps: Number(element.dataset.fps),
      heardS: 0,
    }));
    this.duration = Math.max(...this.sides.map((side) => side.duration));
    this.heard = 0;
    this.rate = 1;
    this.loop = false;
    this.playing = false;
    this.position = 0;
    this.problem = "";
    this.lead = 0.03; // seconds between a call of play() and the first moving picture; learned from every start
    this.seekLead = 0.05; // seconds that a seek during play takes; learned from every seek
    for (const side of this.sides) {
      side.video.addEventListener("error", () => this.fail(side.video));
      if (side.video.error) this.fail(side.video);
    }
  }

  async fail(video) {
    const answer = await fetch(video.src, { headers: { Range: "bytes=0-0" } }).catch(() => null);
    const reason = answer && !answer.ok ? await answer.text() : "the browser cannot play it";
    this.problem = `A clip cannot be shown: ${reason.replace(/<[^>]*>/g, " ").trim().slice(0, 200)}`;
    this.changed();
  }

  /** Time in the clips that is heard and seen now, in seconds. */
  now() {
    if (!this.playing) return this.position;
    return this.at(this.contextNow());
  }

  at(contextTime) {
    const since = Math.max(0, contextTime - this.startedAt) * this.rate + this.startedFrom;
    return this.loop ? since % this.duration : Math.min(since, this.duration);
  }

  /** The time of the audio context that is heard now. It advances in blocks, so it is followed with the page's clock. */
  contextNow() {
    const page = performance.now() / 1000;
    const offset = this.context.currentTime - page;
    if (this.offset === undefined || Math.abs(offset - this.offset) > 0.1) this.offset = offset;
    this.offset += (offset - this.offset) * 0.05;
    return page + this.offset - (this.context.outputLatency || 0);
  }

  async load() {
    this.context ??= new AudioContext({ latencyHint: "interactive" });
    if (this.context.state === "suspended") await this.context.resume();
    await Promise.all(this.sides.map((side) => this.decode(side)));
  }

  async decode(side) {
    if (side.buffer) return;
    const answer = await fetch(side.sound);
    if (!answer.ok) throw new Error("a sound cannot be loaded");
    const decoded = await this.context.decodeAudioData(await answer.arrayBuffer());
    const length = Math.max(1, Math.round(this.duration * decoded.sampleRate));
    side.buffer = this.context.createBuffer(1, length, decoded.sampleRate);
    side.buffer.copyToChannel(decoded.getChannelData(0).subarray(0, length), 0);
    side.gain = this.context.createGain();
    side.gain.connect(this.context.destination);
    this.setGains(true);
  }

  async toggle() {
    if (this.playing) this.pause();
    else await this.play();
  }

  async play() {
    if (this.playing || this.starting) return;
    this.starting = true;
    try {
      await this.load();
      if (this.position >= this.duration - 0.01) this.position = 0;
      await Promise.all(this.sides.map((side) => sought(side.video, Math.min(this.position, side.duration))));
      this.start();
    } catch (error) {
      this.problem = `Cannot play: ${error.message}`;
    } finally {
      this.starting = false;
      this.changed();
    }
  }

  start() {
    this.offset = undefined;
    this.startedAt = this.context.currentTime + AHEAD_S;
    this.startedFrom = this.position;
    for (const side of this.sides) {
      side.source = this.context.createBufferSource();
      side.source.buffer = side.buffer;
      side.source.loop = this.loop;
      side.source.playbackRate.value = this.rate;
      side.source.connect(side.gain);
      side.source.start(this.startedAt, this.position);
    }
    this.playing = true;
    const latency = this.context.outputLatency || 0;
    setTimeout(() => this.playing && this.rollPictures(), Math.max(0, (AHEAD_S + latency - this.lead) * 1000));
    this.last = undefined;
    this.follow();
  }

  rollPictures() {
    for (const side of this.sides) {
      side.video.playbackRate = this.rate;
      if (this.position < side.duration) side.video.play().catch(() => {});
    }
    this.rolling = true;
    this.isFirst = true;
  }

  pause() {
    this.position = this.now();
    this.stop();
  }

  stop() {
    this.playing = false;
    this.rolling = false;
    cancelAnimationFrame(this.frame);
    for (const side of this.sides) {
      side.source?.stop();
      side.source = undefined;
      side.video.pause();
    }
    this.changed();
  }

  /** Correct the pictures once per drawn frame. */
  follow() {
    if (!this.playing) return;
    const now = this.now();
    this.countHeard(now);
    if (this.rolling) for (const side of this.sides) this.correct(side, now);
    if (this.recording) this.record(now);
    if (!this.loop && now >= this.duration) {
      this.position = this.duration;
      this.stop();
      return;
    }
    this.changed();
    this.frame = requestAnimationFrame(() => this.follow());
  }

  correct(side, now) {
    const video = side.video;
    if (video.seeking || now > side.duration - 0.05) return;
    if (video.paused || video.ended) video.play().catch(() => {});
    const error = video.currentTime - now;
    if (this.isFirst && video.currentTime > this.startedFrom && now > this.startedFrom) {
      this.lead = Math.min(Math.max(this.lead - error / 2, 0), 0.12);
      this.isFirst = false;
    }
    if (side.isSought) {
      this.seekLead = Math.min(Math.max(this.seekLead - error / this.rate / 2, 0), 0.2);
      side.isSought = false;
    }
    if (Math.abs(error) > SEEK_BEYOND_S) {
      side.isSought = true;
      video.currentTime = Math.min(now + this.seekLead * this.rate, side.duration);
      return;
    }
    const wanted = Math.abs(error) < STILL_S ? 0 : Math.max(-MAX_CORRECTION, Math.min(MAX_CORRECTION, -error * GAIN_PER_S));
    const rate = this.rate * (1 + wanted);
    if (Math.abs(video.playbackRate - rate) > 0.004) video.playbackRate = rate;
  }

  countHeard(now) {
    const step = this.last === undefined ? 0 : now - this.last;
    if (step > 0 && step < 0.5) this.sides[this.heard].heardS += step;
    this.last = now;
  }

  /** The largest distance of a picture from the clock, and of the two pictures from each other, in milliseconds. */
  driftMs() {
    const now = this.now();
    const moving = this.sides.filter((side) => now < side.duration - 0.06 && !side.video.seeking);
    const times = moving.map((side) => side.video.currentTime);
    if (!times.length) return 0;
    const between = Math.max(...times) - Math.min(...times);
    return Math.max(between, ...times.map((time) => Math.abs(time - now))) * 1000;
  }

  record() {
    this.recording.push(this.driftMs());
  }

  /** Record the drift at every drawn frame for some seconds; gives the numbers in milliseconds. */
  async measure(seconds) {
    this.recording = [];
    await new Promise((done) => setTimeout(done, seconds * 1000));
    const drifts = this.recording.sort((first, second) => first - second);
    this.recording = undefined;
    const at = (share) => drifts[Math.min(drifts.length - 1, Math.floor(drifts.length * share))];
    return { num: drifts.length, median: at(0.5), p95: at(0.95), max: at(1) };
  }

  hear(index) {
    if (index >= this.sides.length) return;
    this.heard = index;
    this.setGains(false);
    this.changed();
  }

  setGains(atOnce) {
    this.sides.forEach((side, index) => {
      if (!side.gain) return;
      const level = index === this.heard ? 1 : 0;
      if (atOnce) side.gain.gain.value = level;
      else side.gain.gain.setTargetAtTime(level, this.context.currentTime, FADE_S);
    });
  }

  setLoop(loop) {
    this.change(() => (this.loop = loop));
  }

  setRate(rate) {
    this.change(() => (this.rate = rate));
  }

  /** Change something that the schedule depends on; a playing player starts again where it is. */
  change(set) {
    const wasPlaying = this.playing;
    if (wasPlaying) this.pause();
    set();
    if (wasPlaying) this.play();
    this.changed();
  }

  async seek(time) {
    this.change(() => (this.position = Math.min(Math.max(time, 0), this.duration)));
    if (this.playing || this.starting) return;
    for (const side of this.sides) side.video.currentTime = Math.min(this.position, side.duration);
  }

  /** Show the next or the previous frame; frames are those of the faster side. */
  step(direction) {
    if (this.playing) this.pause();
    const fps = Math.max(...this.sides.map((side) => side.fps)) || 25;
    const frame = Math.round(this.position * fps - 0.01) + direction;
    const last = Math.round(this.duration * fps) - 1;
    this.seek((Math.min(Math.max(frame, 0), last) + 0.01) / fps);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** Wait until the video shows the picture at ``time``; at most two seconds, so that one broken clip does not hold up the other. */
function sought(video, time) {
  if (video.error) return Promise.resolve();
  return new Promise((done) => {
    const finish = () => {
      video.removeEventListener("seeked", finish);
      done();
    };
    video.addEventListener("seeked", finish);
    setTimeout(finish, 2000);
    if (Math.abs(video.currentTime - time) < 0.001 && !video.seeking && video.readyState >= 2) finish();
    else video.currentTime = time;
  });
}

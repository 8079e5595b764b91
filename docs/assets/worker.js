// Search runs in a web worker, and browsers start none on a page opened from a disk. There, a hidden frame does its work.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = null;
      this.waiting = [];
      const worker = this;
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = "<!DOCTYPE html><title>worker</title>";
      frame.addEventListener("load", function () {
        const inside = frame.contentWindow;
        inside.postMessage = function (data) {
          const event = new MessageEvent("message", { data: data });
          worker.dispatchEvent(event);
          if (worker.onmessage) worker.onmessage(event);
        };
        inside.importScripts = function () {
          return Array.from(arguments).reduce(function (before, source) {
            return before.then(function () { return add(inside, source); });
          }, Promise.resolve());
        };
        add(inside, new URL(address, document.baseURI).href).then(function () {
          const waiting = worker.waiting;
          worker.waiting = null;
          waiting.forEach(function (data) { worker.postMessage(data); });
        });
      }, { once: true });
      this.frame = frame;
      document.body.appendChild(frame);

      function add(inside, source) {
        return new Promise(function (done, failed) {
          const script = inside.document.createElement("script");
          script.src = source;
          script.onload = done;
          script.onerror = failed;
          inside.document.body.appendChild(script);
        });
      }
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: data }));
    }

    terminate() { this.frame.remove(); }
  };
}

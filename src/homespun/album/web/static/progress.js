/* Shows how far an index run is: in the bar on every page, larger on the status page. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var live = document.getElementById('live');
  var text = document.getElementById('live-text');
  var card = document.getElementById('indexing');
  var bar = document.getElementById('indexing-bar');
  var now = document.getElementById('index-now');
  var RUNNING = 1500, RESTING = 15000;
  var wasRunning = false;

  function left(seconds) {
    return seconds < 90 ? Homespun.say('seconds', { n: Math.max(1, Math.round(seconds)) })
      : Homespun.say('minutes', { n: Math.round(seconds / 60) });
  }

  function describe(state) {
    var parts = [];
    if (state.total) { parts.push(Homespun.say('indexing_of', { done: state.done, total: state.total })); }
    else { parts.push(state.done ? Homespun.say('indexing_done', { n: state.done }) : Homespun.say('indexing')); }
    if (state.photos_per_second) { parts.push(Homespun.say('rate', { rate: state.photos_per_second.toFixed(state.photos_per_second < 10 ? 1 : 0) })); }
    if (state.seconds_left) { parts.push(left(state.seconds_left)); }
    return parts;
  }

  function show(state) {
    live.hidden = !state.running;
    if (state.running) { text.textContent = describe(state)[0]; }
    if (card) {
      card.hidden = !state.running && !state.error;
      document.getElementById('indexing-text').textContent =
        state.running ? describe(state).join(' · ') : (state.error || '');
      if (state.total) { bar.value = state.done / state.total; } else { bar.removeAttribute('value'); }
      bar.hidden = !state.running;
      now.disabled = state.running;
    }
    // New photos are in: pages that list them show them.
    if (wasRunning && !state.running && (card || document.querySelector('main > .blank'))) { Homespun.refreshMain(hold); }
    wasRunning = state.running;
  }

  function hold() {
    card = document.getElementById('indexing');
    bar = document.getElementById('indexing-bar');
    now = document.getElementById('index-now');
    if (now) { now.addEventListener('click', begin); }
  }

  function poll() {
    if (document.hidden) { setTimeout(poll, RUNNING); return; }
    Homespun.call('GET', '/api/v1/indexing', null, function (state) {
      show(state);
      setTimeout(poll, state.running ? RUNNING : RESTING);
    }, function () { setTimeout(poll, RESTING); });
  }

  function begin() {
    Homespun.call('POST', '/api/v1/indexing', {}, function () {
      show({ running: true, done: 0 });
      setTimeout(poll, 300);
    });
  }

  hold();
  poll();
}());

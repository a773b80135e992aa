/* The queue of doubts: one question at a time, one key for each answer. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var queue = document.getElementById('doubts');
  if (!queue) { return; }

  var doubts = [].slice.call(queue.querySelectorAll('.doubt'));
  var current = 0;
  var busy = false;
  /* Y, N, S and the green, red and yellow keys of a remote. */
  var KEYS = { 89: 'yes', 78: 'no', 83: 'skip', 404: 'yes', 403: 'no', 405: 'skip' };
  var answered = {};

  function prepare(index) {
    var image = doubts[index] && doubts[index].querySelector('img[data-later]');
    if (image) { image.src = image.getAttribute('data-later'); image.removeAttribute('data-later'); }
  }

  function show(index) {
    current = index;
    if (index >= doubts.length) { location.reload(); return; }
    doubts.forEach(function (doubt, i) { doubt.hidden = i !== index; });
    prepare(index);
    prepare(index + 1);
    doubts[index].querySelector('[data-answer="yes"]').focus({ preventScroll: true });
  }

  function answer(given) {
    if (busy || current >= doubts.length) { return; }
    busy = true;
    var doubt = doubts[current];
    var asked = current;
    var body = { photo_id: Number(doubt.getAttribute('data-photo')), topic: doubt.getAttribute('data-topic'), answer: given };
    var name = Homespun.topicNames[body.topic] || body.topic;
    Homespun.call('POST', '/api/v1/doubts/answers', body, function (change) {
      busy = false;
      answered[change.id] = asked;
      Homespun.showChange(change, given === 'skip' ? Homespun.say('skipped') : Homespun.say('said_' + given, { topic: name, n: 1 }));
      show(asked + 1);
    }, function (detail) { busy = false; Homespun.complain(detail); });
  }

  /* A question whose answer was taken back is asked again. */
  Homespun.onChange(function (change) {
    if (change.undone && change.id in answered) { show(answered[change.id]); }
  });

  queue.addEventListener('click', function (event) {
    var button = Homespun.closest(event.target, '[data-answer]');
    if (button) { answer(button.getAttribute('data-answer')); }
  });

  Homespun.keys.push(function (key) {
    if (!(key in KEYS)) { return false; }
    answer(KEYS[key]);
    return true;
  });

  prepare(1);
}());

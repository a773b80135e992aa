/* Corrections: the picker of topics, a new topic, and sending what was said. Used by photo.js and grid.js. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var chosen = [];
  var afterwards = null;

  function send(body, title, done) {
    Homespun.call('POST', '/api/v1/corrections', body, function (change) {
      Homespun.showChange(change, title);
      if (done) { done(change); }
    });
  }

  /* These photos are in the topic / are not / are in none. `done` is called when the album has learnt it. */
  function say(photoIds, verdict, topic, name, done) {
    var body = { photo_ids: photoIds };
    if (verdict === 'yes') { body.positive = [topic]; }
    else if (verdict === 'no') { body.negative = [topic]; }
    else { body.none = true; }
    send(body, Homespun.say('said_' + verdict, { topic: name, n: photoIds.length }), done);
  }

  function pick(photoIds, done) {
    chosen = photoIds;
    afterwards = done;
    Homespun.openDialog('picker');
  }

  document.getElementById('picker').addEventListener('click', function (event) {
    var choice = Homespun.closest(event.target, '.choice');
    if (!choice) { return; }
    if (choice.getAttribute('data-action') === 'new-topic') { openNewTopic(); return; }
    Homespun.closeDialog();
    say(chosen, 'yes', choice.getAttribute('data-topic'), choice.getAttribute('data-name'), afterwards);
  });

  /* New topic */

  var form = document.querySelector('#new-topic form');

  function openNewTopic() {
    form.reset();
    form.querySelector('.complaint').hidden = true;
    Homespun.openDialog('new-topic');
  }

  form.addEventListener('submit', function (event) {
    event.preventDefault();
    var name = form.elements.name.value.trim();
    var other = form.elements.name_other.value.trim();
    var complaint = form.querySelector('.complaint');
    function complain(detail) { complaint.textContent = detail; complaint.hidden = false; form.elements.name.focus(); }
    if (!name) { complain(Homespun.say('name_missing')); return; }
    var chinese = document.documentElement.lang === 'zh-CN';
    var body = { photo_ids: chosen, name: chinese ? other || name : name };
    if (chinese || other) { body.name_zh = chinese ? name : other; }
    Homespun.call('POST', '/api/v1/topics', body, function (topic) {
      Homespun.closeDialog();
      Homespun.topicNames[topic.key] = name;
      addChoice(topic.key, name);
      Homespun.call('GET', '/api/v1/changes?limit=1', null, function (changes) {
        // The answer to "add" is the topic; what it moved stands in the log, which has it as its newest line.
        var change = changes[0];
        if (!change || change.topics.indexOf(topic.key) < 0) { return; }
        showNewTopic(topic, name, change);
        Homespun.tellListeners(change);
        if (afterwards) { afterwards(); }
      });
    }, complain);
  });

  function showNewTopic(topic, name, change) {
    var given = chosen;
    var query = '/api/v1/photos?sort=confidence&limit=60&topic=' + encodeURIComponent(topic.key);
    Homespun.call('GET', query, null, function (page) {
      var found = page.photos.filter(function (photo) { return given.indexOf(photo.id) < 0; });
      var reasons = {};
      change.moved.forEach(function (move) { if (move.topic === topic.key) { reasons[move.photo_id] = move.because; } });
      var more = Math.max(0, page.total - given.length);
      var open = Homespun.element('a', 'button', Homespun.say('topic_open'));
      open.href = '/topics/' + encodeURIComponent(topic.key);
      Homespun.showResult(change.id, Homespun.say('topic_made', { topic: name }),
        more ? Homespun.say('topic_found', { n: more }) : Homespun.say('topic_alone'),
        found.map(function (photo) { return Homespun.movedPhoto(photo.id, 'came', '', reasons[photo.id]); }), open);
    });
  }

  function addChoice(key, name) {
    var button = Homespun.element('button', 'choice', name);
    button.type = 'button';
    button.setAttribute('data-topic', key);
    button.setAttribute('data-name', name);
    var last = document.querySelector('#picker .choice.new');
    last.parentNode.insertBefore(button, last);
  }

  Homespun.correct = say;
  Homespun.pick = pick;
}());
